"""``pool``, ``unpool``, ``weight_gradients`` and ``drop_padding`` against NumPy; every SIMD level gives the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from core_oracle import LEVELS, core, random_floats
from hypothesis import given, settings
from hypothesis import strategies as st

POOLINGS = ["sum", "mean", "sqrtn"]
all_lengths = st.lists(st.integers(0, 5), max_size=12)


def divisors(lengths: Any, weights: Any, pooling: str) -> Any:
    """Return the divisor of each bag in float64; infinity where the bag reads as zeros."""
    found = []
    for bag in np.split(weights.astype(np.float64), np.cumsum(lengths)[:-1]) if len(lengths) else []:
        value = {"sum": 1.0, "mean": bag.sum(), "sqrtn": np.sqrt((bag**2).sum())}[pooling]
        found.append(value if len(bag) and value else np.inf)
    return np.array(found)


def bags_of(lengths: list[int], dim: int, seed: int, weighted: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    inverse = rng.integers(0, 7, n).astype(np.uint32)
    weights = rng.uniform(0.5, 2, n).astype(np.float32) if weighted else None
    rows, grads = random_floats(7, dim, seed=seed), random_floats(len(lengths), dim, seed=seed + 1)
    return np.array(lengths, np.int64), inverse, weights, rows, grads


@settings(max_examples=60, deadline=None)
@given(all_lengths, st.sampled_from([1, 5, 8, 16, 19, 32]), st.sampled_from(POOLINGS), st.booleans(), st.integers(0, 99))
def test_pooling_and_back(lengths: list[int], dim: int, pooling: str, weighted: bool, seed: int) -> None:
    bags, inverse, weights, rows, grads = bags_of(lengths, dim, seed, weighted)
    each = np.ones(len(inverse), np.float32) if weights is None else weights
    divisor, of = divisors(lengths, each, pooling), np.repeat(np.arange(len(lengths)), lengths)
    expected, back = np.zeros((len(lengths), dim)), np.ones((7, dim))
    if len(of):
        np.add.at(expected, of, each[:, None].astype(np.float64) * rows[inverse])
        np.add.at(back, inverse, each[:, None] * grads[of].astype(np.float64) / divisor[of][:, None])
    bits = []
    for level in LEVELS:
        core.set_simd(level)
        out, merged = np.full((len(lengths), dim), np.nan, np.float32), np.ones((7, dim), np.float32)
        core.pool(rows, inverse, bags, weights, pooling, out)
        core.unpool(grads, inverse, bags, weights, pooling, merged)
        bits.append(out.tobytes() + merged.tobytes())
        if weights is not None:
            bits[-1] += core.weight_gradients(rows, grads, inverse, bags, weights, pooling).tobytes()
    np.testing.assert_allclose(out, expected / divisor[:, None] if len(lengths) else expected, rtol=2e-6, atol=1e-5)
    np.testing.assert_allclose(merged, back, rtol=2e-6, atol=2e-5)  # adds to what is there
    assert len(set(bits)) == 1


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_gradient_of_weights_is_that_of_small_changes(pooling: str) -> None:
    bags, inverse, weights, rows, grads = bags_of([3, 0, 1, 4], 6, 3, True)

    def loss(moved: Any) -> float:
        out = np.zeros((4, 6))
        np.add.at(out, np.repeat(np.arange(4), bags), moved[:, None] * rows[inverse].astype(np.float64))
        return float((out / divisors(bags, moved, pooling)[:, None] * grads).sum())

    found = core.weight_gradients(rows, grads, inverse, bags, weights, pooling)
    for i in range(len(weights)):
        step = np.zeros(len(weights))
        step[i] = 1e-5
        slope = (loss(weights.astype(np.float64) + step) - loss(weights.astype(np.float64) - step)) / 2e-5
        assert abs(found[i] - slope) < 2e-4 * max(1, abs(slope)), i


def test_weights_that_cancel_out_read_as_zeros() -> None:
    weights, inverse, bags = np.array([1, -1], np.float32), np.array([0, 1], np.uint32), np.array([2])
    out, merged = np.full((1, 3), np.nan, np.float32), np.zeros((2, 3), np.float32)
    core.pool(random_floats(2, 3), inverse, bags, weights, "mean", out)
    core.unpool(np.full((1, 3), np.nan, np.float32), inverse, bags, weights, "mean", merged)
    assert not out.any() and not merged.any()


def test_without_lengths_every_id_is_a_bag() -> None:
    rows, inverse = random_floats(5, 9), np.array([4, 0, 4], np.uint32)
    out = np.empty((3, 9), np.float32)
    core.pool(rows, inverse, None, None, "mean", out)
    np.testing.assert_array_equal(out, rows[inverse])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=8), st.sampled_from([0, 2, 9, 2**64 - 1]))
def test_padding_is_left_out(bags: list[list[int]], padding: int) -> None:
    ids = np.array([i for bag in bags for i in bag], np.uint64)
    lengths = np.array([len(bag) for bag in bags], np.int64)
    found = core.drop_padding(ids, padding, lengths)
    if padding not in ids.tolist():
        assert found is None
        return
    kept, places, left = found
    np.testing.assert_array_equal(kept, ids[ids != padding])
    np.testing.assert_array_equal(ids[places], kept)
    assert left.tolist() == [sum(i != padding for i in bag) for bag in bags]
    assert core.drop_padding(ids, padding, None)[2].tolist() == (ids != padding).astype(int).tolist()


@pytest.mark.parametrize("lengths, words", [
    ([1, -1, 3], "length -1 of bag 1 is negative"),
    ([1, 1], "the lengths of 2 bags add up to 2, but there are 3 ids"),
    ([2, 2], "add up to more than 3, but there are 3 ids"),
    ([2**62] * 5, "add up to more than 3"),
])  # fmt: skip
def test_lengths_that_do_not_fit(lengths: list[int], words: str) -> None:
    bags, inverse, out = np.array(lengths, np.int64), np.zeros(3, np.uint32), np.zeros((len(lengths), 2), np.float32)
    with pytest.raises(ValueError, match=words):
        core.pool(random_floats(1, 2), inverse, bags, None, "sum", out)
    with pytest.raises(ValueError, match=words):
        core.drop_padding(np.zeros(3, np.uint64), 0, bags)
    assert not out.any()


def test_what_is_no_row_or_no_pooling() -> None:
    inverse, out = np.array([3], np.uint32), np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match="inverse holds 3, but there are 3 rows"):
        core.pool(random_floats(3, 2), inverse, None, None, "sum", out)
    with pytest.raises(ValueError, match="inverse holds 3, but there are 1 rows"):
        core.unpool(out, inverse, None, None, "sum", np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="pooling must be sum, mean or sqrtn, got max"):
        core.pool(random_floats(4, 2), inverse, None, None, "max", out)
    with pytest.raises(TypeError, match="weights must be a numpy array"):
        core.weight_gradients(random_floats(4, 2), out, inverse, None, None, "sum")
