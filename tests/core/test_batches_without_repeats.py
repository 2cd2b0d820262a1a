"""``Unique``, ``expand``, ``merge`` and ``merge_pushes`` against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from core_oracle import LEVELS, core, mix64, random_floats, random_ids
from hypothesis import given, settings
from hypothesis import strategies as st

SALT = 11
any_ids = st.lists(st.one_of(st.sampled_from([0, 1, SALT, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1)), max_size=200)


def shards(num_servers: int) -> np.ndarray:
    return (np.arange(1024) * num_servers // 1024).astype(np.uint16)


def check(worker: object, ids: np.ndarray, placement: np.ndarray, num_servers: int) -> None:
    keys, inverse, counts = worker.unique(ids, placement, num_servers)  # type: ignore[attr-defined]
    assert keys.dtype == np.uint64 and inverse.dtype == np.uint32 and counts.dtype == np.int64
    assert counts.shape == (num_servers,) and counts.sum() == len(keys) == len(np.unique(ids))
    np.testing.assert_array_equal(keys[inverse], ids)
    hashed = mix64(keys ^ np.uint64(SALT))
    server = placement[core.shard_of(keys, SALT)].astype(np.int64)
    np.testing.assert_array_equal(server, np.repeat(np.arange(num_servers), counts))
    stripe = (hashed >> np.uint64(50)).astype(np.int64) % 16
    first = np.array([np.flatnonzero(ids == key)[0] for key in keys] if len(keys) < 500 else np.zeros(len(keys)), np.int64)
    order = np.lexsort((first, stripe, server))
    if len(keys) < 500:
        np.testing.assert_array_equal(order, np.arange(len(keys)))  # by server, then stripe, then first appearance
    else:
        assert (np.diff(server * 16 + stripe) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(any_ids, min_size=1, max_size=3), num_servers=st.integers(1, 5))
def test_unique(batches: list[list[int]], num_servers: int) -> None:
    worker = core.Unique(SALT)
    for ids in batches:  # one workspace for all
        check(worker, np.array(ids, np.uint64), shards(num_servers), num_servers)


def test_unique_of_a_large_skewed_batch() -> None:
    worker = core.Unique(SALT)
    ids = np.exp(np.random.default_rng(2).uniform(0, 14, 100_000)).astype(np.uint64)
    check(worker, ids, shards(3), 3)
    check(worker, random_ids(100_000), shards(1), 1)
    check(worker, ids[:7], shards(1024), 1024)


def test_a_placement_that_names_no_server() -> None:
    placement = shards(2)
    placement[1000] = 2
    with pytest.raises(ValueError, match=r"server_of_shard\[1000\] is 2, but there are 2 servers"):
        core.Unique(SALT).unique(random_ids(3), placement, 2)


def test_shards_are_the_top_bits_of_the_mixed_id_and_spread_evenly() -> None:
    for ids in (np.arange(200_000, dtype=np.uint64), np.arange(200_000, dtype=np.uint64) << np.uint64(40)):
        got = core.shard_of(ids, SALT)
        np.testing.assert_array_equal(got, (mix64(ids ^ np.uint64(SALT)) >> np.uint64(54)).astype(np.uint16))
        load = np.bincount(got, minlength=1024)
        assert load.min() > 110 and load.max() < 290  # 195 each; 6 standard deviations


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dim", [1, 8, 11, 16, 32, 40])
def test_expand_and_merge(level: str, dim: int) -> None:
    core.set_simd(level)
    rng = np.random.default_rng(dim)
    inverse = rng.integers(0, 60, 500).astype(np.uint32)
    rows, grads = random_floats(60, dim), random_floats(500, dim, seed=3)
    out = np.full((500, dim), np.nan, np.float32)
    core.expand(rows, inverse, out)
    np.testing.assert_array_equal(out, rows[inverse])
    merged = np.full((60, dim), np.nan, np.float32)
    assert core.merge(grads, inverse, 0.3, merged) == 0
    expected = np.zeros((60, dim), np.float32)
    np.add.at(expected, inverse, grads)  # in order of appearance
    np.testing.assert_array_equal(merged, expected * np.float32(0.3))


def test_merge_counts_what_is_not_finite() -> None:
    grads = np.array([[np.inf, 1], [-np.inf, 1], [3e38, 1], [3e38, np.nan]], np.float32)
    out = np.empty((3, 2), np.float32)
    assert core.merge(grads, np.array([0, 0, 1, 1], np.uint32), 1.0, out) == 3
    np.testing.assert_array_equal(out, np.array([[np.nan, 2], [np.inf, np.nan], [0, 0]], np.float32))


def test_an_inverse_that_names_no_row() -> None:
    inverse = np.array([0, 3], np.uint32)
    with pytest.raises(ValueError, match="inverse holds 3, but there are 3 rows"):
        core.expand(random_floats(3, 2), inverse, np.empty((2, 2), np.float32))
    with pytest.raises(ValueError, match="inverse holds 3, but there are 2 rows"):
        core.merge(random_floats(2, 2), inverse, 1.0, np.empty((2, 2), np.float32))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 12), max_size=12, unique=True), min_size=1, max_size=4), st.integers(1, 17))
def test_merge_pushes(trainers: list[list[int]], dim: int) -> None:
    pushes = [(np.array(keys, np.uint64), random_floats(len(keys), dim, seed=i)) for i, keys in enumerate(trainers)]
    sums: dict[int, np.ndarray] = {}
    for keys, grads in pushes:
        for key, g in zip(keys.tolist(), grads, strict=True):
            sums[key] = sums.get(key, np.zeros(dim, np.float32)) + g
    keys, grads = core.merge_pushes(pushes)
    assert keys.tolist() == list(sums)
    np.testing.assert_array_equal(grads, np.array(list(sums.values()), np.float32).reshape(-1, dim))


def test_merge_pushes_refuses() -> None:
    with pytest.raises(ValueError, match="at least one"):
        core.merge_pushes([])
    with pytest.raises(ValueError, match=r"grads must be float32\[2, 3\], got shape \[2, 4\]"):
        core.merge_pushes([(random_ids(1), random_floats(1, 3)), (random_ids(2), random_floats(2, 4))])
    with pytest.raises(TypeError, match="keys, grads"):
        core.merge_pushes([random_ids(1)])
