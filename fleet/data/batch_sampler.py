"""Paddle's ``DistributedBatchSampler``, for scripts written for it: the same call, without repeated samples."""

from __future__ import annotations

from collections.abc import Iterator, Sized

from fleet.data.sampler import GlobalBatches
from fleet.env import detect
from fleet.errors import ConfigError


class DistributedBatchSampler:
    """Yield this trainer's lists of indices, ``batch_size`` a trainer; goes into ``paddle.io.DataLoader(batch_sampler=...)``.

    Where Paddle's repeats samples to fill up the last batches, this one shares the rest out unevenly, so that an
    evaluation counts each sample once. All trainers make the same number of batches: one that the last global
    batch leaves without samples gets that batch's first one, with ``weights()`` saying 0.

    As with Paddle's, each pass shuffles anew, and ``set_epoch`` says which epoch comes next.

    Args:
        dataset: anything with a length.
        batch_size: of each trainer.
        num_replicas, rank: default: what ``fleet.env.detect()`` says.

    Raises:
        ConfigError: as GlobalBatches; or this process is a server.

    Example:
        >>> list(DistributedBatchSampler(range(5), 2, num_replicas=2, rank=0))
        [[0, 1], [4]]
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
    ) -> None:
        if num_replicas is None or rank is None:
            role = detect()
            if role.is_server:
                raise ConfigError("a server reads no samples", at="DistributedBatchSampler", fix="make it in the trainers only")
            num_replicas = role.world_size if num_replicas is None else num_replicas
            rank = role.rank if rank is None else rank
        self.dataset, self.batch_size, self.shuffle, self.drop_last = dataset, batch_size, shuffle, drop_last
        self.nranks, self.local_rank = num_replicas, rank
        self.epoch = 0
        self._batches = GlobalBatches(
            len(dataset),
            batch_size * max(num_replicas, 1),
            shuffle=shuffle,
            drop_last=drop_last,
            seed=0,
            rank=rank,
            world_size=num_replicas,
        )

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self.epoch
        self.epoch += 1
        for part in self._batches.parts(epoch, 0):
            yield part.indices.tolist()

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass take the order of ``epoch``."""
        self.epoch = epoch

    def weights(self) -> Iterator[tuple[int, int]]:
        """Yield (samples that count, samples of the global batch) of each batch of an epoch, in the order of the pass."""
        return self._batches.sizes(0)
