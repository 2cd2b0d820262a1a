"""A trainer's copies of rows: which are fresh, and by how much they moved since they were fetched; against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from core_oracle import random_floats, random_ids

from fleet.parameter_server import native

core = native.load()


def copies(dim: int = 4, optimizer: str = "sgd", **more: Any) -> Any:
    values = {"initializer": "constant", "init_args": (9.0, 0.0), "seed": 1, "salt": 2, "hyper": {}, **more}
    return core.Copies(dim=dim, optimizer=optimizer, **values)


def weights(rows: Any, ids: np.ndarray) -> np.ndarray:
    found: np.ndarray = rows.read(ids)[1]
    return found


@pytest.mark.parametrize("dim", [1, 4, 300])
@pytest.mark.parametrize("follow", [False, True])
def test_moves_are_those_of_numpy(dim: int, follow: bool) -> None:
    num = 700  # of ids that come in no order
    ids, rows = random_ids(num), copies(dim, "adagrad")
    then, gradient = random_floats(num, dim, seed=3), random_floats(num, dim, seed=2)
    rows.take(ids, then.copy(), False)
    bad, stale = rows.push_fresh(ids, gradient, 0.1, 1)
    assert bad == 0 and len(stale) == 0
    now = weights(rows, ids)
    assert (now != then).mean() > 0.9
    out = np.empty((num, dim), np.float32)
    rows.moves(ids, 3, follow, out)
    part = (now - then) / np.float32(3)
    np.testing.assert_array_equal(out, -part)
    base = then + part if follow else then
    rows.moves(ids, 1, False, out)
    np.testing.assert_array_equal(out, -(now - base))
    np.testing.assert_array_equal(weights(rows, ids), now)


def test_rows_are_fresh_until_they_are_renewed() -> None:
    """Also when the count of renewals, 16 bits in each row, begins anew."""
    ids, rows = random_ids(40), copies()
    out, gradient = np.zeros((40, 4), np.float32), np.ones((40, 4), np.float32)
    assert rows.pull_fresh(ids, out).tolist() == list(range(40)) and rows.size == 0  # looked at, not made
    rows.take(ids[:30], np.full((30, 4), 2, np.float32), False)
    assert rows.pull_fresh(ids, out).tolist() == list(range(30, 40))
    assert (out[:30] == 2).all() and (out[30:] == 0).all()
    for _ in range(3):
        rows.renew()
        assert len(rows.pull_fresh(ids, out)) == 40
        rows.take(ids[5:10], np.full((5, 4), 3, np.float32), False)
        assert rows.push_fresh(ids, gradient, 1.0, 1)[1].tolist() == [*range(5), *range(10, 40)]
        assert (weights(rows, ids[5:10]) == 2).all() and (weights(rows, ids[:5]) == 2).all()
        for _ in range((1 << 16) - 2):
            rows.renew()
        assert len(rows.pull_fresh(ids, out)) == 40


def test_what_the_servers_do_not_have_is_added_to_what_is_fetched() -> None:
    ids, rows = random_ids(6), copies(optimizer="adagrad")
    rows.take(ids, np.zeros((6, 4), np.float32), False)
    rows.push_fresh(ids, np.ones((6, 4), np.float32), 1.0, 1)
    moved, state = weights(rows, ids), rows.read(ids)[2]
    rows.settle(ids, moved / 2)  # the servers were sent half of it
    fetched = np.full((6, 4), 5, np.float32)
    rows.take(ids, fetched, True)
    np.testing.assert_array_equal(fetched, 5 + (moved - moved / 2))
    np.testing.assert_array_equal(weights(rows, ids), fetched)
    np.testing.assert_array_equal(rows.read(ids)[2], state)  # stays
    rows.settle(ids)
    out = np.ones((6, 4), np.float32)
    rows.moves(ids, 1, False, out)
    assert not out.any()
    fetched = np.full((6, 4), 7, np.float32)
    rows.take(ids, fetched, True)
    assert (fetched == 7).all()


def test_gradients_that_are_not_finite_change_nothing() -> None:
    ids, rows = random_ids(3), copies()
    rows.take(ids[:2], np.ones((2, 4), np.float32), False)
    bad, stale = rows.push_fresh(ids, np.full((3, 4), np.nan, np.float32), 1.0, 1)
    assert bad == 12 and len(stale) == 0 and (weights(rows, ids[:2]) == 1).all()


def test_ids_without_a_row_have_not_moved_and_get_none() -> None:
    rows, ids = copies(), random_ids(10)
    out = np.ones((10, 4), np.float32)
    rows.moves(ids, 1, True, out)
    rows.settle(ids)
    assert not out.any() and rows.size == 0
    rows.moves(ids[:0], 1, True, out[:0])


def test_what_does_not_fit_is_refused() -> None:
    rows, ids = copies(), random_ids(2)
    with pytest.raises(ValueError, match="parts"):
        rows.moves(ids, 0, False, np.empty((2, 4), np.float32))
    with pytest.raises(ValueError, match="out"):
        rows.moves(ids, 1, False, np.empty((2, 5), np.float32))
    with pytest.raises(ValueError, match="step"):
        rows.push_fresh(ids, np.empty((2, 4), np.float32), 1.0, 0)
    with pytest.raises(ValueError, match="above the limit"):
        copies(dim=1 << 17)  # float32[2**17] and its base
