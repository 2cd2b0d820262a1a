"""A server's memory limit: new rows are refused before anything has changed, or others make room for them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from core_oracle import core
from life_oracle import table

DIM = 256  # rows of 1 KB


@pytest.fixture
def limit() -> Iterator[int]:
    """Leave 40 MB to the tables: a limit of which an eighth is kept."""
    bytes_ = (core.resident_bytes() + (40 << 20)) * 8 // 7
    core.set_memory_limit(bytes_)
    yield bytes_
    core.set_memory_limit(0)


def ids_of(step: int) -> np.ndarray:
    return np.arange(step * 1000, step * 1000 + 1000, dtype=np.uint64)


def test_new_rows_are_refused_and_nothing_has_changed(limit: int) -> None:
    rows, grads = table({}, dim=DIM), np.ones((1000, DIM), np.float32)
    step = 0
    with pytest.raises(MemoryError, match="1000 new rows of 1036 bytes: the tables have .* bytes left of the server's"):
        for step in range(1, 100):
            rows.push(ids_of(step), grads, 1.0, step)
    assert 10 < step < 45 and rows.size == 1000 * (step - 1)
    assert core.resident_bytes() < limit
    out = np.empty_like(grads)
    rows.push(ids_of(1), grads, 1.0, step)  # rows that are there go on
    rows.pull(ids_of(1), out, True)
    assert (out == -1).all()
    rows.pull(ids_of(98), out, False)  # and unseen ids read as before
    assert (out == 1).all()
    for refused in (lambda: rows.room_to_pull(ids_of(98)), lambda: rows.assign(ids_of(98), grads)):
        with pytest.raises(MemoryError):
            refused()
    assert rows.size == 1000 * (step - 1)


@pytest.mark.parametrize(
    "life", [{"capacity": 10**9}, {"age_steps": 10**6}, {"admission": 1, "admit_count": 1, "age_steps": 10**6}]
)
def test_old_rows_make_room(limit: int, life: dict[str, float]) -> None:
    rows, grads = table(life, dim=DIM), np.ones((1000, DIM), np.float32)
    rows.set_evicts_when_full(True)
    for step in range(1, 120):
        rows.push(ids_of(step), grads, 1.0, step)
    assert core.resident_bytes() < limit
    there = set(rows.keys().tolist())
    assert 10_000 < len(there) < 45_000 and set(ids_of(119).tolist()) <= there and not set(ids_of(1).tolist()) & there
