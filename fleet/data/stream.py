"""Samples of a stream (paddle.io.IterableDataset) shared out over trainers, with a position that any number of them can resume.

The order is the stream's own: batch k holds its samples ``k * batch_size`` to before ``(k + 1) * batch_size``, and each trainer
takes its contiguous part of it, as everywhere. :func:`shard` goes around what the set iterates; what is dear (decoding) behind
it, so that each trainer and each data worker does it for its own samples only. Every trainer reads the whole stream, and a
resumed one reads past what was consumed.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from fleet import env
from fleet.data.sampler import Cursor, share
from fleet.errors import ConfigError

NAME = "stream 1"
_PLACE = "the stream given to distributed_loader"
_here = threading.local()  # .reading: the Reading whose samples this thread asks for; a DataLoader reads in a thread of its own

Item = TypeVar("Item")


def shard(items: Iterable[Item]) -> Iterator[Item]:
    """Yield this trainer's part of a stream, and of it this data worker's: for the ``__iter__`` of an IterableDataset.

    Below ``fleet.distributed_loader`` each item has to become exactly one sample, in order: filter and shuffle before, decode
    behind. Elsewhere every n-th item is this process's, of n trainers times data workers.

    Example:
        >>> class Lines(paddle.io.IterableDataset):
        ...     def __iter__(self):
        ...         for line in fleet.data.shard(open("corpus.txt")):
        ...             yield encode(line)
    """
    reading: Reading | None = getattr(_here, "reading", None)
    if reading is not None:
        return reading.part(items)
    role, (worker, num_workers) = env.detect(), _worker()
    return islice(iter(items), max(role.rank, 0) * num_workers + worker, None, max(role.world_size, 1) * num_workers)


class StreamBatches(Cursor):
    """Where the passes over a stream stand, and how its batches are cut."""

    def __init__(self, batch_size: int, *, drop_last: bool, rank: int, world_size: int) -> None:
        super().__init__(0, shuffle=False, seed=0, order=NAME)
        self.batch_size, self.drop_last, self.rank, self.world_size = batch_size, drop_last, rank, world_size
        if batch_size < world_size:
            what = f"a batch of {batch_size} of a stream cannot be shared out over {world_size} trainers"
            raise ConfigError(what, at=_PLACE, fix='use a larger batch size, batch="per_trainer", or fewer trainers')

    @property
    def part_size(self) -> int:
        """Samples of this trainer in a full batch."""
        low, high = share(self.batch_size, self.rank, self.world_size)
        return high - low

    def __len__(self) -> int:
        raise TypeError("a stream has no len()")

    @property
    def done(self) -> int:
        """Batches of this epoch that were handed out."""
        return -(-self._position // self.batch_size)


class Reading:
    """One pass of one process over the stream."""

    def __init__(self, batches: StreamBatches, position: int, worker: int, num_workers: int) -> None:
        self._batches, self._position = batches, position
        self._worker, self._num_workers = worker, num_workers
        self.used, self.given = False, 0  # samples that shard() handed to the set
        self.sizes: deque[tuple[int, int]] = deque()  # (num_samples, num_global) of the batches begun, the oldest first

    def part(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield this process's part of each batch."""
        if self.used:
            what = "fleet.data.shard was used twice in a pass"
            raise ConfigError(what, at=_PLACE, fix="chain the streams, and shard the whole once")
        self.used = True
        return self._parts(items)

    def _parts(self, items: Iterable[Item]) -> Iterator[Item]:
        mine, source, number = self._batches, iter(items), 0
        skipped = sum(1 for _ in islice(source, self._position))
        while skipped == self._position and (batch := list(islice(source, mine.batch_size))):
            if len(batch) < mine.batch_size and mine.drop_last:
                return
            if number % self._num_workers == self._worker:
                low, high = share(len(batch), mine.rank, mine.world_size)
                self.sizes.append((high - low, len(batch)))
                for item in batch[low:high] or batch[:1]:  # an empty part borrows a sample
                    self.given += 1
                    yield item
            number += 1


class Stream:
    """What a DataLoader iterates in place of the user's IterableDataset; it checks that each item became one sample."""

    def __init__(self, dataset: Any, batches: StreamBatches) -> None:
        self._dataset, self._batches = dataset, batches
        self.position = 0  # at which the next pass begins
        self.reading: Reading | None = None  # of this process

    def __iter__(self) -> Iterator[Any]:
        self.reading = reading = Reading(self._batches, self.position, *_worker())
        num_samples = 0
        with _read_by(reading):
            samples = iter(self._dataset)
        while True:
            with _read_by(reading):
                try:
                    sample = next(samples)
                except StopIteration:
                    break
            num_samples += 1
            self._check(reading, num_samples)
            yield sample
        self._check(reading, num_samples)

    def sizes(self) -> list[int]:
        """Return (num_samples, num_global) of the batch that is made now."""
        assert self.reading is not None
        return list(self.reading.sizes.popleft())

    def _check(self, reading: Reading, num_samples: int) -> None:
        if reading.given == num_samples:
            return
        if not reading.used:
            what = f"{type(self._dataset).__name__} gives every trainer all of its samples"
            fix = "put fleet.data.shard(...) around what its __iter__ goes through"
        else:
            what = f"{type(self._dataset).__name__} made {num_samples} samples of {reading.given} items of fleet.data.shard"
            fix = "make exactly one sample of each item, in order: filter and shuffle before fleet.data.shard, not behind it"
        raise ConfigError(what, at=_PLACE, fix=fix)


@contextlib.contextmanager
def _read_by(reading: Reading) -> Iterator[None]:
    before = getattr(_here, "reading", None)
    _here.reading = reading
    try:
        yield
    finally:
        _here.reading = before


def _worker() -> tuple[int, int]:
    """Return which data worker this process is, and of how many."""
    import sys

    if "paddle" not in sys.modules:
        return 0, 1
    from paddle import io

    info = io.get_worker_info()
    return (0, 1) if info is None else (int(info.id), int(info.num_workers))
