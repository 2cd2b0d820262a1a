"""An IterableDataset with fleet.data.shard: every sample once, in the stream's order, resumed by any number of trainers."""

import os
import subprocess
import sys

import numpy as np
import pytest

import fleet.data
from fleet.data import ShardedLoader
from fleet.errors import ConfigError

paddle = pytest.importorskip("paddle")
io = paddle.io
WORKERS = int(os.environ.get("DATALOADER_WORKERS", "0"))  # one process never does both: test_sharing_out_a_dataloader.py says why


class Lines(io.IterableDataset):
    decoded = 0

    def __init__(self, num=23):
        self.num = num

    def __iter__(self):
        for number in fleet.data.shard(range(self.num)):
            self.decoded += 1
            yield np.int64(number), np.float32([number])


class Whole(Lines):
    def __iter__(self):
        for number in range(self.num):
            yield np.int64(number), np.float32([number])


class Filters(Lines):
    def __iter__(self):
        for number in fleet.data.shard(range(self.num)):
            if number % 3:
                yield np.int64(number), np.float32([number])


class Twice(Lines):
    def __iter__(self):
        for number in fleet.data.shard(fleet.data.shard(range(self.num))):
            yield np.int64(number), np.float32([number])


def loaders(world, data=Lines, num=23, batch="global", state=None, sizes=None, meet=None, **more):
    ranks = []
    for rank in range(world):
        source = io.DataLoader(data(num), batch_size=4, num_workers=WORKERS, **more)
        note = lambda *said, rank=rank: None if sizes is None else sizes[rank].append(said)  # noqa: E731
        given = {} if meet is None else {"meet": meet}
        ranks.append(ShardedLoader(source, rank=rank, world_size=world, seed=5, batch=batch, on_batch=note, **given))
        if state is not None:
            ranks[-1].load(state)
    return ranks


def read(world, num_epochs=1, **more):
    """Return the numbers of each global batch, and the states behind each."""
    sizes = [[] for _ in range(world)]
    ranks = loaders(world, sizes=sizes, **more)
    found, states = [], []
    for _ in range(num_epochs):
        for parts in zip(*ranks, strict=True):
            mine = [part[0].numpy().tolist()[: sizes[rank][-1][0]] for rank, part in enumerate(parts)]
            assert sum(map(len, mine)) == sizes[0][-1][1] == sizes[-1][-1][1]
            found.append(sum(mine, []))
            states.append(ranks[0].state())
    return found, states


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("num", [24, 23, 21, 17])
def test_each_sample_once_in_the_streams_order(world, num):
    found, _ = read(world, num=num)
    assert found == [list(range(at, min(at + 4, num))) for at in range(0, num, 4)]


def test_a_batch_per_trainer_and_a_last_batch_left_out():
    assert read(3, batch="per_trainer")[0] == [list(range(12)), list(range(12, 23))]
    assert [len(batch) for batch in read(2, drop_last=True)[0]] == [4] * 5


@pytest.mark.parametrize("stop", [0, 2, 4, 5, 7])
def test_resumed_by_another_number_of_trainers(stop):
    whole, states = read(2, num_epochs=2)
    rest, _ = read(3, state=states[stop])
    end = 6 if stop < 6 else 12
    assert rest == whole[stop + 1 : end]


def test_evaluation_counts_each_sample_once():
    with paddle.no_grad():
        counted = [int(x) for one in loaders(4, num=17) for batch in one for x in batch[0]]
    assert sorted(counted) == list(range(17))


@pytest.mark.skipif(WORKERS > 0, reason="what is decoded there is not known here")
def test_each_trainer_decodes_its_own_samples_only():
    source = io.DataLoader(Lines(24), batch_size=4)
    list(ShardedLoader(source, rank=0, world_size=2, seed=0, batch="global", on_batch=lambda *_: None))
    assert source.dataset.decoded == 12 and sum(1 for _ in source) == 6, "and the source is not changed"


@pytest.mark.parametrize(("data", "says"), [(Whole, "every trainer all"), (Filters, "made 1 samples of 2"), (Twice, "used twice")])
def test_what_cannot_be_counted_is_refused(data, says):
    with pytest.raises(ConfigError, match=says) as caught:
        read(2, data=data)
    assert "fleet.data.shard" in str(caught.value)


def test_streams_of_different_length_are_refused():
    def shorter_elsewhere(what, words):
        return [words, b"19"] if "end of the data" in what else [words]

    with pytest.raises(ConfigError, match="differ in length between trainers .*trainer 0: 23, trainer 1: 19"):
        list(loaders(1, meet=shorter_elsewhere)[0])


def test_a_batch_too_small_for_the_trainers():
    with pytest.raises(ConfigError, match="a batch of 4 of a stream cannot be shared out over 5 trainers"):
        loaders(5)


def test_without_a_distributed_loader(monkeypatch):
    monkeypatch.setenv("FLEET_RANK", "1")
    monkeypatch.setenv("FLEET_WORLD_SIZE", "3")
    assert list(fleet.data.shard(range(8))) == [1, 4, 7]


def test_its_length_is_not_known():
    (one,) = loaders(1)
    assert one.num_batches == 0 and not one.at_end
    with pytest.raises(TypeError, match="a stream has no len"):
        len(one)


@pytest.mark.skipif(WORKERS > 0, reason="this is the process that it starts")
def test_all_of_this_file_with_two_workers():
    some = ["-k", "resumed or counted or 23-2"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "60", __file__, *some]
    done = subprocess.run(command, env={**os.environ, "DATALOADER_WORKERS": "2"}, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout[-3000:]
