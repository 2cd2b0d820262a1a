"""ShardedLoader over paddle.io.DataLoader and ArrayLoader: the parts, the order of calls, the position, the refusals."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from fleet.data import ArrayLoader, DistributedBatchSampler, ShardedLoader
from fleet.errors import ConfigError

paddle = pytest.importorskip("paddle")
io = paddle.io
NUM = 23
# Paddle 3.3.1 hangs now and then when worker processes are forked after a DataLoader without workers has run (plain
# Paddle, too: 1 hang in 400 turns of the two; none in 400 turns of workers only). So one process never does both.
WORKERS = int(os.environ.get("DATALOADER_WORKERS", "0"))


class Numbers(io.Dataset):
    def __len__(self):
        return NUM

    def __getitem__(self, index):
        return np.float32([index, -index]), np.int64(index)


def source(kind, workers=WORKERS, shuffle=True, **more):
    if kind == "arrays":
        return ArrayLoader((np.arange(NUM), np.arange(NUM)), 4, shuffle=shuffle, seed=5)
    return io.DataLoader(Numbers(), batch_size=4, shuffle=shuffle, num_workers=workers, **more)


def shard(loader, rank=0, world_size=1, batch="global", on_batch=lambda *_: None, announce=None):
    return ShardedLoader(
        loader, rank=rank, world_size=world_size, seed=5, batch=batch, on_batch=on_batch, announce=announce
    )


def numbers(batch):
    return batch[1].numpy().tolist()


@pytest.mark.parametrize(("kind", "workers"), [("arrays", 0), ("paddle", WORKERS)])
def test_three_trainers_see_together_what_one_sees_alone(kind, workers):
    alone = shard(source(kind))
    epochs = [[numbers(batch) for batch in alone] for _ in range(2)]
    assert epochs[0] != epochs[1] and sorted(sum(epochs[0], [])) == list(range(NUM))
    counts = [[] for _ in range(3)]
    ranks = [
        shard(source(kind, workers), rank, 3, on_batch=lambda *said, rank=rank: counts[rank].append(said)) for rank in range(3)
    ]
    for expected in epochs:
        parts = [[numbers(batch) for batch in one] for one in ranks]
        for k, batch in enumerate(expected):
            together = [number for rank in range(3) for number in parts[rank][k][: counts[rank][k][0]]]
            assert together == batch
            assert {counts[rank][k][1] for rank in range(3)} == {len(batch)}
        for one in counts:
            one.clear()


def test_arrays_come_in_the_order_they_have_alone():
    plain = [numbers(batch) for batch in source("arrays")]
    assert [numbers(batch) for batch in shard(source("arrays"))] == plain


def test_a_batch_per_trainer_makes_the_global_batch_larger():
    said = []
    ranks = [shard(source("paddle"), rank, 4, "per_trainer", lambda *one: said.append(one)) for rank in range(4)]
    parts = [[numbers(batch) for batch in one] for one in ranks]
    assert [len(one) for one in parts[0]] == [4, 1] and len(ranks[0]) == 2 and ranks[0].global_batch_size == 16
    assert said[:2] == [(4, 16), (1, 7)] and sum(one[0] for one in said) == NUM


def test_the_next_batch_is_announced_before_a_batch_is_handed_out():
    calls = []
    loader = shard(
        source("paddle", shuffle=False),
        on_batch=lambda *said: calls.append(said),
        announce=lambda batch: calls.append(numbers(batch)[0]),
    )
    for batch in loader:
        calls.append(f"loop {numbers(batch)[0]}")
        if len(calls) > 6:
            break
    assert calls == [0, 4, (4, 4), "loop 0", 8, (4, 4), "loop 4"]


def test_all_batches_come_with_and_without_announcing():
    plain = [numbers(batch) for batch in shard(source("paddle"))]
    ahead = [numbers(batch) for batch in shard(source("paddle"), announce=lambda _: None)]
    assert plain == ahead and len(plain) == 6


@pytest.mark.skipif(WORKERS > 0, reason="this is the process that it starts")
def test_all_of_this_file_with_two_workers():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "60", __file__]
    environ = {**os.environ, "DATALOADER_WORKERS": "2"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(("kind", "workers"), [("arrays", 0), ("paddle", WORKERS)])
@pytest.mark.parametrize("stop", [1, 3, 6, 8])
def test_a_state_taken_in_the_loop_resumes_after_the_batch_in_hand(kind, workers, stop):
    whole = shard(source(kind))
    expected = [numbers(batch) for _ in range(3) for batch in whole]
    first = shard(source(kind, workers), announce=lambda _: None)
    done, saved = [], None
    while saved is None:
        for batch in first:
            done.append(numbers(batch))
            if len(done) == stop:
                saved = first.state()
                break
    again = shard(source(kind, workers), 0, 1)
    again.load(saved)
    rest = [numbers(batch) for batch in again]
    rest += [numbers(batch) for batch in again]
    assert done + rest == expected[: len(done + rest)] and len(rest) == 6 + (-stop) % 6


@pytest.mark.parametrize("persistent", [False, True])
def test_a_loop_left_early_is_followed_by_the_next_epoch(persistent):
    whole = shard(source("paddle"))
    epochs = [[numbers(batch) for batch in whole] for _ in range(3)]
    loader = shard(source("paddle", persistent_workers=persistent and WORKERS > 0))
    assert [numbers(batch) for batch in loader] == epochs[0]
    for batch in loader:
        assert numbers(batch) == epochs[1][0]
        break
    assert [numbers(batch) for batch in loader] == epochs[2]


def test_the_settings_of_the_source_are_kept_and_the_source_is_not_changed():
    def double(samples):
        return np.array([2 * number for _, number in samples])

    loader = io.DataLoader(Numbers(), batch_size=4, collate_fn=double, num_workers=WORKERS, drop_last=True)
    shared = shard(loader, 1, 2)
    assert len(shared) == 5
    assert [batch.numpy().tolist() for batch in shared] == [[4 * 2 * k + 4, 4 * 2 * k + 6] for k in range(5)]
    assert type(loader.batch_sampler) is io.BatchSampler and len(list(loader)) == 5


class Opens(Numbers):
    sign = None

    def __getitem__(self, index):
        return super().__getitem__(index)[0], np.int64(self.sign * index)


def open_in_worker(_):
    io.get_worker_info().dataset.sign = -1


@pytest.mark.skipif(not WORKERS, reason="there are no workers here")
def test_a_worker_finds_the_users_own_set():
    shared = shard(io.DataLoader(Opens(), batch_size=4, num_workers=WORKERS, worker_init_fn=open_in_worker))
    assert numbers(next(iter(shared))) == [0, -1, -2, -3]


class Fails(Numbers):
    def __getitem__(self, index):
        if index == 9:
            raise LookupError("sample 9 is unreadable")
        return super().__getitem__(index)


def test_a_set_that_raises_ends_the_loop():
    """Plain Paddle 3.3.1 waits for ever: its reader thread has died."""
    seen = []
    with pytest.raises(LookupError, match="sample 9 is unreadable"):
        for batch in shard(io.DataLoader(Fails(), batch_size=4, num_workers=WORKERS)):
            seen.append(numbers(batch))
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(ZeroDivisionError):
        list(shard(io.DataLoader(Numbers(), batch_size=4, num_workers=WORKERS, collate_fn=lambda samples: 1 // 0)))


class Stream(io.IterableDataset):
    def __iter__(self):
        yield 1


class OddLoader(io.DataLoader):
    pass


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: io.DataLoader(Stream(), batch_size=2, num_workers=1, persistent_workers=True), "persistent workers"),
        (lambda: io.DataLoader(Numbers(), batch_size=None), "batch_size=None"),
        (lambda: io.DataLoader(Numbers(), batch_sampler=io.DistributedBatchSampler(Numbers(), 2, 1, 0)), "already"),
        (lambda: io.DataLoader(Numbers(), batch_sampler=DistributedBatchSampler(Numbers(), 2, 1, 0)), "already"),
        (lambda: OddLoader(Numbers(), batch_size=2), "OddLoader"),
        (lambda: [1, 2, 3], "builtins.list"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_with_a_remedy(make, says):
    with pytest.raises(ConfigError, match=says) as caught:
        shard(make())
    assert "distributed_loader" in caught.value.at and caught.value.fix


def batches_of(sampler):
    return io.DataLoader(Numbers(), batch_sampler=io.BatchSampler(sampler=sampler, batch_size=2))


@pytest.mark.parametrize(("name", "theirs"), [("samples", 22), ("samples of a global batch", 8), ("drop_last", True)])
def test_loaders_that_differ_between_trainers_are_refused(name, theirs):
    def meet(what, words):
        assert what == "agreement on the loader"
        return [words, json.dumps({**json.loads(words), name: theirs}).encode()]

    with pytest.raises(ConfigError, match=f"differ between trainers in {name} .trainer 0: .*, trainer 1: {theirs}") as caught:
        ShardedLoader(source("arrays"), rank=0, world_size=2, seed=5, batch="global", on_batch=lambda *_: None, meet=meet)
    assert "the same data set" in caught.value.fix


def test_a_plain_batch_sampler_is_accepted():
    assert len(shard(batches_of(io.SequenceSampler(Numbers())))) == 12


def test_an_unknown_way_of_batching_is_refused():
    with pytest.raises(ConfigError, match="per_node"):
        shard(source("arrays"), batch="per_node")
