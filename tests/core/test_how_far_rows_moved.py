"""``moves``: by how much rows lie below those of another table, against NumPy; ``has``: which ids have a row."""

from __future__ import annotations

import numpy as np
import pytest
from core_oracle import random_floats, random_ids, table


@pytest.mark.parametrize("dim", [1, 4, 300])
@pytest.mark.parametrize("follow", [False, True])
def test_moves_are_those_of_numpy(dim: int, follow: bool) -> None:
    num = 700  # several blocks of the core's at dim 300
    ids = random_ids(num)
    rows, before = table(dim=dim, optimizer="adagrad"), table(dim=dim, optimizer="sgd")
    now, then = random_floats(num, dim, seed=2), random_floats(num, dim, seed=3)
    rows.assign(ids, now)
    before.assign(ids, then)
    out = np.empty((num, dim), np.float32)
    rows.moves(before, ids, 3, follow, out)
    part = (now - then) / np.float32(3)
    np.testing.assert_array_equal(out, -part)
    np.testing.assert_array_equal(before.read(ids)[1], then + part if follow else then)
    np.testing.assert_array_equal(rows.read(ids)[1], now)


def test_ids_without_a_row_have_not_moved_and_get_none() -> None:
    rows, before, ids = table(), table(), random_ids(10)
    out = np.ones((10, 4), np.float32)
    rows.moves(before, ids, 1, False, out)
    assert not out.any() and rows.size == before.size == 0
    assert not rows.has(ids).any()
    rows.assign(ids[:3], np.ones((3, 4), np.float32))
    assert rows.has(ids).tolist() == [True] * 3 + [False] * 7
    rows.moves(before, ids[:0], 1, True, out[:0])


def test_what_does_not_fit_is_refused() -> None:
    rows, ids = table(), random_ids(2)
    with pytest.raises(ValueError, match="same dim"):
        rows.moves(table(dim=5), ids, 1, False, np.empty((2, 4), np.float32))
    with pytest.raises(ValueError, match="parts"):
        rows.moves(table(), ids, 0, False, np.empty((2, 4), np.float32))
    with pytest.raises(ValueError, match="out"):
        rows.moves(table(), ids, 1, False, np.empty((2, 5), np.float32))
