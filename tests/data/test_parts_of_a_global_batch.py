"""Over all trainers each sample comes once an epoch, in an order that no number of trainers changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.data import GlobalBatches
from fleet.errors import ConfigError, SnapshotError

shapes = st.tuples(st.integers(1, 70), st.integers(1, 20), st.integers(1, 6), st.booleans(), st.integers(0, 5))


def sampler(n, size, world=1, rank=0, shuffle=True, drop_last=False, seed=3):
    return GlobalBatches(n, size, shuffle=shuffle, drop_last=drop_last, seed=seed, rank=rank, world_size=world)


def counted(parts):
    return [i for part in parts for i in part.indices[: part.num_samples].tolist()]


@settings(max_examples=150, deadline=None)
@given(shapes, st.booleans())
def test_each_sample_once(shape, shuffle):
    n, size, world, _, seed = shape
    passes = [list(sampler(n, size, world, rank, shuffle, seed=seed)) for rank in range(world)]
    assert sorted(i for parts in passes for i in counted(parts)) == list(range(n))
    assert len({len(parts) for parts in passes}) == 1 == len({len(sampler(n, size, world))}), "same number of batches everywhere"
    for batch in zip(*passes, strict=True):
        assert sum(part.num_samples for part in batch) == batch[0].num_global
        assert max(part.num_samples for part in batch) - min(part.num_samples for part in batch) <= 1
        for part in batch:
            assert part.indices.dtype == np.int64 and len(part.indices) == max(part.num_samples, 1)


@settings(max_examples=100, deadline=None)
@given(shapes)
def test_the_order_does_not_depend_on_the_number_of_trainers(shape):
    n, size, world, shuffle, seed = shape
    alone = [part.indices.tolist() for part in sampler(n, size, shuffle=shuffle, seed=seed)]
    ranks = [list(sampler(n, size, world, rank, shuffle, seed=seed)) for rank in range(world)]
    together = [counted(batch) for batch in zip(*ranks, strict=True)]
    assert together == alone


@settings(max_examples=100, deadline=None)
@given(shapes, st.integers(0, 200), st.integers(1, 6), st.booleans())
def test_resumed_equals_uninterrupted(shape, stop, other_world, drop_last):
    n, size, world, shuffle, seed = shape
    if drop_last and n < size:
        return
    whole = sampler(n, size, 1, 0, shuffle, drop_last, seed)
    expected = [[part.indices.tolist() for part in whole] for _ in range(3)]
    stop %= 2 * len(whole)
    first = sampler(n, size, world, 0, shuffle, drop_last, seed)
    steps, saved = 0, first.state()
    while steps < stop:
        for _ in first:
            steps, saved = steps + 1, first.state()
            if steps == stop:
                break
    again = [sampler(n, size, other_world, rank, shuffle, drop_last, seed) for rank in range(other_world)]
    for one in again:
        one.load(saved)
    rest = [counted(batch) for batch in zip(*[list(one) for one in again], strict=True)]
    epoch, done = saved["epoch"], -(-saved["position"] // size)
    assert rest == expected[epoch][done:]
    assert [counted(batch) for batch in zip(*[list(one) for one in again], strict=True)] == expected[epoch + 1]


def test_an_empty_part_holds_a_real_sample_of_weight_zero():
    parts = [list(sampler(9, 8, 4, rank, shuffle=False))[-1] for rank in range(4)]
    assert [part.num_samples for part in parts] == [0, 0, 0, 1]
    assert [part.indices.tolist() for part in parts] == [[8]] * 4
    assert {part.num_global for part in parts} == {1}


def test_each_pass_is_the_next_epoch_also_after_an_early_end():
    one = sampler(50, 10)
    first = [part.indices.tolist() for part in one]
    assert sorted(sum(first, [])) == list(range(50))
    for _ in one:
        break
    third = [part.indices.tolist() for part in one]
    fresh = sampler(50, 10)
    fresh.start_at(2)
    assert third == [part.indices.tolist() for part in fresh] != first


def test_state_says_what_was_consumed():
    one = sampler(25, 10)
    states = []
    for _ in one:
        states.append((one.state()["epoch"], one.state()["position"]))
    assert states == [(0, 10), (0, 20), (0, 25)]
    assert (one.state()["epoch"], one.state()["position"]) == (1, 0)


def test_the_shuffle_is_what_older_checkpoints_expect():
    part = next(iter(sampler(10, 10, seed=7)))
    assert part.indices.tolist() == GOLDEN and sampler(10, 10).state()["order"] == "feistel 1"


GOLDEN = [6, 5, 1, 3, 8, 4, 0, 9, 7, 2]


def test_a_position_in_the_order_of_an_earlier_version_is_refused():
    one = sampler(50, 10)
    for old in ({**one.state(), "order": ""}, {k: v for k, v in one.state().items() if k != "order"}):
        with pytest.raises(SnapshotError, match="order='that of an earlier version of fleet', this loader has order='feistel 1'"):
            one.load(old)
    plain = sampler(50, 10, shuffle=False)  # the data set's own order has not changed
    plain.load({**plain.state(), "position": 20})
    assert next(iter(plain)).indices[0] == 20


@pytest.mark.parametrize("other", [{"seed": 4}, {"n": 51}, {"shuffle": False}])
def test_a_position_in_another_order_is_refused(other):
    saved = sampler(50, 10).state()
    one = sampler(**{"n": 50, "size": 10, **other})
    with pytest.raises(SnapshotError, match="order of samples differs"):
        one.load(saved)


def test_a_damaged_position_is_refused():
    one = sampler(50, 10)
    with pytest.raises(SnapshotError, match="outside 50 samples"):
        one.load({**one.state(), "position": 51})


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"n": 0}, "empty"),
        ({"size": 0}, "batch_size"),
        ({"n": 5, "drop_last": True}, "drop_last leaves nothing"),
        ({"seed": -1}, "seed"),
        ({"rank": 2, "world": 2}, "rank 2"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(args, says):
    with pytest.raises(ConfigError, match=says):
        sampler(**{"n": 50, "size": 10, **args})
