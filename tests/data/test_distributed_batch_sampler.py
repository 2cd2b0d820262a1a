"""The sampler with Paddle's signature repeats no sample and goes into a DataLoader."""

import numpy as np
import pytest

from fleet.data import DistributedBatchSampler
from fleet.errors import ConfigError


@pytest.mark.parametrize(("num", "world"), [(23, 2), (24, 3), (9, 4), (3, 5)])
def test_each_sample_is_counted_once(num, world):
    ranks = [DistributedBatchSampler(range(num), 2, world, rank, shuffle=True) for rank in range(world)]
    counted = []
    for one in ranks:
        batches = list(one)
        assert len(batches) == len(ranks[0]) and all(1 <= len(batch) <= 2 for batch in batches)
        counted += [i for batch, (count, _) in zip(batches, one.weights(), strict=True) for i in batch[:count]]
    assert sorted(counted) == list(range(num))


def test_set_epoch_says_which_order_comes_next():
    one = DistributedBatchSampler(range(50), 5, 2, 0, shuffle=True)
    first, second = list(one), list(one)
    one.set_epoch(0)
    assert list(one) == first != second


def test_who_this_process_is_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("FLEET_RANK", "1")
    monkeypatch.setenv("FLEET_WORLD_SIZE", "2")
    assert list(DistributedBatchSampler(range(8), 2)) == [[2, 3], [6, 7]]
    monkeypatch.setenv("FLEET_ROLE", "server")
    with pytest.raises(ConfigError, match="server"):
        DistributedBatchSampler(range(8), 2)


def test_it_goes_into_a_dataloader():
    paddle = pytest.importorskip("paddle")

    class Numbers(paddle.io.Dataset):
        def __len__(self):
            return 9

        def __getitem__(self, index):
            return np.int64(index)

    sampler = DistributedBatchSampler(Numbers(), 2, 2, 1)
    loader = paddle.io.DataLoader(Numbers(), batch_sampler=sampler)
    assert len(loader) == 3
    for _ in range(2):
        assert [int(i) for batch in loader for i in batch] == [2, 3, 6, 7, 8]
