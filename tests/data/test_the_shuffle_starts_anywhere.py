"""The shuffle is a bijection that any place can be asked for, whatever the size of the set, and none of its orders is favoured."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.data import GlobalBatches
from fleet.data.shuffle import Shuffle


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**40), st.integers(0, 1000))
def test_each_sample_has_one_place(num, seed, epoch):
    order = Shuffle(num, seed, epoch).at(np.arange(num))
    assert order.dtype == np.int64 and np.array_equal(np.sort(order), np.arange(num))
    some = np.arange(0, num, 7)
    assert np.array_equal(Shuffle(num, seed, epoch).at(some[::-1]), order[some[::-1]])


def test_the_last_places_of_a_huge_set_cost_nothing():
    tracemalloc.start()
    batches = GlobalBatches(10**15 + 3, 64, shuffle=True, drop_last=False, seed=1, rank=0, world_size=1)
    batches.load({**batches.state(), "epoch": 5, "position": 10**15 - 61})
    found = np.concatenate([part.indices for part in batches])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == len(set(found.tolist())) == 64 and 0 <= found.min() and found.max() < 10**15 + 3
    assert np.unique(found >> 45).size > 20, "from all over the set"
    assert most < 4 << 20


@pytest.mark.parametrize("num", [5, 33])
def test_every_sample_comes_everywhere_as_often(num):
    """Chi-square of (place, sample) and of (sample, the one behind it) over 1,000 seeds: within 5 standard deviations."""
    where, behind = np.zeros((num, num)), np.zeros((num, num))
    for seed in range(1000):
        order = Shuffle(num, seed, 1).at(np.arange(num))
        where[np.arange(num), order] += 1
        behind[order[:-1], order[1:]] += 1
    pairs = behind[~np.eye(num, dtype=bool)]
    for counts, freedom in ((where.ravel(), (num - 1) ** 2), (pairs, num * (num - 1) - 1)):
        expected = counts.sum() / counts.size
        chi = ((counts - expected) ** 2 / expected).sum()
        assert chi < freedom + 5 * np.sqrt(2 * freedom)


def test_epochs_and_seeds_give_other_orders():
    orders = {tuple(Shuffle(40, seed, epoch).at(np.arange(40)).tolist()) for seed in range(20) for epoch in range(20)}
    assert len(orders) == 400
