"""Admission and eviction against a dict, over random sequences of pushes and pulls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from core_oracle import core
from hypothesis import given, settings
from hypothesis import strategies as st
from life_oracle import Oracle, table

COUNT, CHANCE, SCORE = 1, 2, 3
SCORES = {"nonclick": 0.1, "click": 1.0, "scored": 1}
LIVES: dict[str, dict[str, float]] = {
    "count": {"admission": COUNT, "admit_count": 4, "unseen_zero": 1},
    "chance": {"admission": CHANCE, "admit_probability": 0.3},
    "score": {"admission": SCORE, "admit_score": 2.0, "nonclick": 0.1, "click": 1.0},
    "age": {"age_steps": 5},
    "coarse age": {"age_steps": 40000},
    "count and age": {"admission": COUNT, "admit_count": 3, "age_steps": 4},
    "chance and age": {"admission": CHANCE, "admit_probability": 0.5, "age_steps": 3, "unseen_zero": 1},
    "decay": {**SCORES, "age_steps": 60, "decay": 0.5, "decay_steps": 4, "delete_below": 0.25},
    "score and decay": {
        "admission": SCORE,
        "admit_score": 1.0,
        **SCORES,
        "age_steps": 60,
        "decay": 0.5,
        "decay_steps": 4,
        "delete_below": 0.3,
    },
}
Push = tuple[list[int], int, int]
BATCHES = st.lists(
    st.tuples(st.lists(st.integers(0, 11), min_size=1, max_size=8, unique=True), st.integers(1, 4), st.integers(0, 3)),
    min_size=1,
    max_size=30,
)


def push(rows: Any, ids: list[int], shows: int, clicks: int, step: int) -> None:
    n = len(ids)
    counts = (np.full(n, shows, np.uint32), np.full(n, min(clicks, shows), np.uint32))
    grads = np.full((n, rows.dim), 0.125, np.float32)
    assert rows.push(np.array(ids, np.uint64), grads, 1.0, step, *counts) == 0


@pytest.mark.parametrize("name", LIVES)
@settings(max_examples=60, deadline=None)
@given(batches=BATCHES, stride=st.sampled_from([1, 1, 2, 7]))
def test_a_table_agrees_with_a_dict(name: str, batches: list[Push], stride: int) -> None:
    life = LIVES[name]
    rows, oracle = table(life), Oracle(life)
    everything = np.arange(12, dtype=np.uint64)
    out = np.empty((12, 2), np.float32)
    stride *= 3000 if name == "coarse age" else 1
    step = 0
    for ids, shows, clicks in batches:
        step += stride
        push(rows, ids, shows, clicks, step)
        oracle.push(ids, [shows] * len(ids), [min(clicks, shows)] * len(ids), step)
        rows.pull(everything, out, True)
        assert [float(w) for w in out[:, 0]] == [oracle.read(int(k)) for k in everything], (step, ids)
    rows.shrink(0.0)
    assert rows.life_counts()["waiting"] == len(oracle.waiting)
    alive = sorted(k for k in oracle.weight if not oracle.expired(k, step))
    assert sorted(rows.keys().tolist()) == alive and rows.size == len(alive)


def test_a_count_of_one_is_no_admission() -> None:
    one, none = table({"admission": COUNT, "admit_count": 1}), table({})
    out = np.empty((50, 2), np.float32)
    for step in range(1, 20):
        ids = np.unique(np.random.default_rng(step).integers(0, 500, 50).astype(np.uint64))
        for rows in (one, none):
            push(rows, ids.tolist(), 1, 0, step)
    ids = np.arange(50, dtype=np.uint64)
    assert one.size == none.size and sorted(one.keys()) == sorted(none.keys())
    one.pull(ids, out, False)
    again = np.empty_like(out)
    none.pull(ids, again, False)
    assert out.tobytes() == again.tobytes()


def test_a_pull_of_training_makes_no_row_and_counts_no_sighting() -> None:
    rows = table({"admission": COUNT, "admit_count": 2})
    ids = np.arange(1000, dtype=np.uint64)
    out = np.empty((1000, 2), np.float32)
    for _ in range(5):  # a pull may be repeated: a line broke, a batch was announced and left
        assert rows.pull(ids, out, True) == 0
    assert rows.size == 0 and rows.life_counts() == {"waiting": 0, "admitted": 0, "evicted": 0, "dropped": 0}
    push(rows, ids.tolist(), 1, 0, 1)
    assert rows.size == 0 and rows.life_counts()["waiting"] == 1000 and rows.life_counts()["dropped"] == 1000
    push(rows, ids.tolist(), 1, 0, 2)
    assert rows.size == 1000 and rows.life_counts()["waiting"] == 0 and rows.life_counts()["admitted"] == 1000
    rows.pull(ids, out, False)
    assert (out == 1 - 0.125).all()  # the push that admits also teaches


def test_an_id_that_repeats_in_one_push() -> None:
    rows = table({"admission": COUNT, "admit_count": 3, "age_steps": 5})
    ids = np.array([7, 7, 7, 7, 8], np.uint64)
    rows.push(ids, np.full((5, 2), 0.125, np.float32), 1.0, 1)
    out = np.empty((2, 2), np.float32)
    rows.pull(np.array([7, 8], np.uint64), out, False)
    assert out[:, 0].tolist() == [1 - 2 * 0.125, 1.0] and rows.size == 1


@pytest.mark.parametrize("frequent", [False, True])
def test_capacity_keeps_what_is_worth_most(frequent: bool) -> None:
    capacity = 4000
    rows = table({"capacity": capacity, "scored": 1, "keep_frequent": int(frequent)})
    rng = np.random.default_rng(5)
    hot = np.arange(2000, dtype=np.uint64)  # in every second push
    for step in range(1, 101):
        cold = rng.integers(10_000, 10_000_000, 500).astype(np.uint64)
        ids = np.unique(np.concatenate([cold, hot]) if step % 2 else cold)
        push(rows, ids.tolist(), 1, 0, step)
        assert rows.size <= capacity
    there = set(rows.keys().tolist())
    assert rows.size == capacity and len(there) == capacity
    assert sum(k in there for k in hot.tolist()) >= 1990  # sampled: the worst of 16, not of all
    assert rows.life_counts()["evicted"] > 20_000


def test_the_same_pushes_leave_the_same_rows() -> None:
    lives = [{"capacity": 3000}, {"age_steps": 7, "capacity": 2500, "admission": CHANCE, "admit_probability": 0.5}]
    for life in lives:
        tables = [table(life) for _ in range(2)]
        for step in range(1, 60):
            ids = np.unique(np.random.default_rng(step).zipf(1.2, 400) % 20_000).tolist()
            for rows in tables:
                push(rows, ids, 1, 0, step)
        assert tables[0].keys().tolist() == tables[1].keys().tolist()


def test_more_ids_than_the_capacity_are_refused_and_change_nothing() -> None:
    rows = table({"capacity": 10})
    push(rows, list(range(10)), 1, 0, 1)
    before = sorted(rows.keys())
    with pytest.raises(ValueError, match="brings 11 ids .* capacity is 10 rows"):
        push(rows, list(range(100, 111)), 1, 0, 2)
    assert sorted(rows.keys()) == before and rows.step == 1


def test_a_million_ids_that_wait_cost_less_than_20_megabytes() -> None:
    rows = table({"admission": COUNT, "admit_count": 2}, dim=64)
    for start in range(0, 1_000_000, 100_000):
        ids = np.arange(start, start + 100_000, dtype=np.uint64)
        rows.push(ids, np.zeros((len(ids), 64), np.float32), 1.0, 1)
    assert rows.life_counts()["waiting"] == 1_000_000 and rows.size == 0
    assert rows.memory_bytes <= 20e6


def test_memory_of_evicted_rows_is_used_again() -> None:
    rows = table({"age_steps": 2}, dim=16)
    sizes = []
    for step in range(1, 120):
        push(rows, list(range(step * 2000, step * 2000 + 2000)), 1, 0, step)
        sizes.append(rows.memory_bytes)
    assert sizes[-1] == sizes[20] and rows.size <= 2000 * 6  # age 2, and a lap of the sweep of 2 steps


def test_a_clock_that_jumps_leaves_no_old_row() -> None:
    rows = table({"age_steps": 20_000})  # ticks of 2 steps: 2**16 of them are 131 072 steps
    for step, ids in ((1, range(100)), (1 + 131_072, range(200, 210))):  # the tick of both is the same
        push(rows, list(ids), 1, 0, step)
    assert sorted(rows.keys()) == list(range(200, 210))
    forever = table({"capacity": 1000})
    push(forever, list(range(900)), 1, 0, 1)
    push(forever, list(range(900, 1400)), 1, 0, 1 + 65_536)
    assert forever.size == 1000 and set(range(900, 1400)) <= set(forever.keys().tolist())


@pytest.mark.parametrize("level", core.core_info()["simd_levels"])
def test_every_simd_level_leaves_the_same_rows(level: str) -> None:
    best = core.core_info()["simd"]
    core.set_simd(level)
    try:
        rows = table(LIVES["count and age"], dim=16)
        for step in range(1, 40):
            push(rows, np.unique(np.random.default_rng(step).zipf(1.3, 300) % 3000).tolist(), 1, 0, step)
        out = np.empty((3000, 16), np.float32)
        rows.pull(np.arange(3000, dtype=np.uint64), out, False)
        keys = rows.keys().tolist()
    finally:
        core.set_simd(best)
    again = table(LIVES["count and age"], dim=16)
    for step in range(1, 40):
        push(again, np.unique(np.random.default_rng(step).zipf(1.3, 300) % 3000).tolist(), 1, 0, step)
    expected = np.empty_like(out)
    again.pull(np.arange(3000, dtype=np.uint64), expected, False)
    assert out.tobytes() == expected.tobytes() and keys == again.keys().tolist()
