"""Samplers and batch samplers of the user: all trainers draw the same, each sample drawn is counted once, any number resumes."""

import itertools

import numpy as np
import pytest

from fleet.data import ShardedLoader
from fleet.errors import ConfigError, SnapshotError

paddle = pytest.importorskip("paddle")
io = paddle.io
NUM = 23


class Numbers(io.Dataset):
    def __len__(self):
        return NUM

    def __getitem__(self, index):
        return np.int64(index)


class Evens(io.Sampler):
    """With an order that follows from set_epoch."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(np.random.default_rng(self.epoch).permutation(np.arange(0, NUM, 2)).tolist())

    def __len__(self):
        return 12


class OwnState(io.Sampler):
    """With a generator of its own, that goes on from epoch to epoch."""

    def __init__(self):
        super().__init__(None)
        self.generator = np.random.default_rng(3)

    def __iter__(self):
        return iter(self.generator.permutation(NUM).tolist())

    def __len__(self):
        return NUM


class ByLength(io.BatchSampler):
    """Batches of 1, 2, 3, ... samples."""

    def __init__(self):
        self.batch_size = 6

    def __iter__(self):
        rest = np.random.permutation(NUM).tolist()
        for size in itertools.count(1):
            if not rest:
                return
            yield rest[:size]
            rest = rest[size:]

    def __len__(self):
        return 7


def of_order(make):
    return lambda: io.DataLoader(Numbers(), batch_sampler=io.BatchSampler(sampler=make(), batch_size=4))


SOURCES = {
    "weighted": of_order(lambda: io.WeightedRandomSampler(np.arange(1, NUM + 1), 15)),
    "replacement": of_order(lambda: io.RandomSampler(Numbers(), replacement=True)),
    "some of them": of_order(lambda: io.RandomSampler(Numbers(), num_samples=9)),
    "list": of_order(lambda: [3, 1, 2, 20, 7]),
    "set_epoch": of_order(Evens),
    "own state": of_order(OwnState),
    "batches": lambda: io.DataLoader(Numbers(), batch_sampler=ByLength()),
}


def epochs(source, world, num, batch="global", state=None):
    """Return the numbers of each global batch of ``num`` epochs, and the loaders' states after each batch."""
    sizes = [[] for _ in range(world)]
    ranks = [ShardedLoader(source(), rank=rank, world_size=world, seed=5, batch=batch,
                           on_batch=lambda *said, rank=rank: sizes[rank].append(said)) for rank in range(world)]  # fmt: skip
    for one in ranks:
        if state is not None:
            one.load(state)
    found, states = [], []
    for _ in range(num):
        batches = []
        for parts in zip(*ranks, strict=True):
            mine = [numbers.numpy().tolist()[: sizes[rank][-1][0]] for rank, numbers in enumerate(parts)]
            assert sum(map(len, mine)) == sizes[0][-1][1]
            batches.append(sum(mine, []))
            states.append(ranks[-1].state())
        found.append(batches)
    return found, states


@pytest.mark.parametrize("name", SOURCES)
def test_any_number_of_trainers_sees_what_one_sees(name):
    alone, _ = epochs(SOURCES[name], 1, 3)
    for world in (2, 3, 5):
        assert epochs(SOURCES[name], world, 3)[0] == alone
    assert all(batches for batches in alone) and (name == "list" or alone[0] != alone[1] != alone[2])


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("batch", ["global", "per_trainer"])
def test_resumed_by_another_number_of_trainers(name, batch):
    if name == "own state":  # drawn anew for the epochs before, without their noise
        np.random.seed(1)
    whole, states = epochs(SOURCES[name], 2, 3, batch)
    stop = len(whole[0]) + 1  # the second batch of the second epoch
    rest, _ = epochs(SOURCES[name], 3, 2, batch, states[stop])
    left = sum(whole[1][2:], [])
    assert sum(rest[0], []) == left and sorted(sum(rest[1], [])) == sorted(sum(whole[2], []))


def test_each_trainer_gets_a_list_of_its_own():
    whole, _ = epochs(SOURCES["batches"], 3, 1, "per_trainer")
    assert [len(batch) for batch in whole[0]] == [1 + 2 + 3, 4 + 5 + 6, 2] and sorted(sum(whole[0], [])) == list(range(NUM))


def test_the_scripts_generators_are_left_alone():
    loader = ShardedLoader(SOURCES["weighted"](), rank=0, world_size=1, seed=5, batch="global", on_batch=lambda *_: None)
    np.random.seed(7)
    expected = np.random.random(3)
    np.random.seed(7)
    list(loader)
    assert np.array_equal(np.random.random(3), expected)


class Unsteady(Evens):
    set_epoch = property()  # has none

    def __iter__(self):
        return iter(np.random.default_rng().permutation(NUM).tolist())


def test_an_order_that_differs_is_refused():
    def others_draw(what, words):
        return [b"23 1", words] if "order" in what else [words]

    source = of_order(Unsteady)()
    loader = ShardedLoader(source, rank=1, world_size=2, seed=5, batch="global", on_batch=lambda *_: None, meet=others_draw)
    with pytest.raises(ConfigError, match="Unsteady does not draw the same on all trainers: 1 differ from trainer 0"):
        list(loader)


def test_a_resumed_order_that_differs_is_refused():
    _, states = epochs(of_order(Unsteady), 1, 1)
    with pytest.raises(SnapshotError, match="draws another order of epoch 0 than before"):
        epochs(of_order(Unsteady), 1, 1, state=states[0])


@pytest.mark.parametrize(
    ("sampler", "says"), [(["a"], "no index"), ([], "drew no sample"), (iter([]), "drew no sample")]
)
def test_what_is_no_order_is_refused(sampler, says):
    with pytest.raises(ConfigError, match=says):
        epochs(of_order(lambda: sampler), 1, 1)
