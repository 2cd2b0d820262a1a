"""A ``paddle.io.DataLoader`` shared out: how it samples, and its batches with all its other settings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fleet.data.drawn import DrawnBatches, Meet
from fleet.data.guarded import Items, Samples, collated, opened
from fleet.data.sampler import GlobalBatches
from fleet.data.stream import Stream, StreamBatches
from fleet.errors import ConfigError

_PLACE = "the loader given to distributed_loader"


class Where(NamedTuple):
    """This trainer among those who share, and what a batch size means."""

    rank: int
    world_size: int
    per_trainer: bool  # the batch size is of each trainer; else of the global batch
    seed: int
    meet: Meet

    def of_all(self, batch_size: int) -> int:
        """Return the samples of a global batch."""
        return batch_size * self.world_size if self.per_trainer else batch_size


def batches_of(source: Any, where: Where) -> GlobalBatches | DrawnBatches | StreamBatches:
    """Return how the samples of a DataLoader are cut in global batches, or refuse it."""
    from paddle import io

    if type(source) is not io.DataLoader:
        raise _refusal(
            f"a loader of type {type(source).__module__}.{type(source).__qualname__}",
            "give a paddle.io.DataLoader itself or a fleet.data.ArrayLoader",
        )
    rank, world_size = where.rank, where.world_size
    if source.batch_sampler is None:
        raise _refusal(
            "batch_size=None: without a batch size there is no global batch",
            "let the data set return single samples and set batch_size, or use a fleet.data.ArrayLoader for batches of arrays",
        )
    if isinstance(source.dataset, io.IterableDataset):
        if getattr(source, "_persistent_workers", False):
            fix = "leave persistent_workers out: the workers of a stream begin anew with each pass"
            raise _refusal("a stream with persistent workers", fix)
        size = where.of_all(source.batch_sampler.batch_size)
        return StreamBatches(size, drop_last=source.drop_last, rank=rank, world_size=world_size)
    sampler, dataset = source.batch_sampler, source.dataset
    if not hasattr(dataset, "__len__"):
        raise _refusal(f"the data set {type(dataset).__name__}, which has no __len__", "give it a __len__")
    shares = "DistributedBatchSampler" in type(sampler).__name__ or hasattr(sampler, "nranks") or hasattr(sampler, "num_replicas")
    if shares:
        what = f"the batch sampler {type(sampler).__name__}, which shares out samples already"
        raise _refusal(what, "leave batch_sampler out and set batch_size, shuffle and drop_last, or do without distributed_loader")
    who: dict[str, Any] = {"seed": where.seed, "rank": rank, "world_size": world_size}
    drawn: dict[str, Any] = {**who, "num_samples": len(dataset), "meet": where.meet}
    if type(sampler) is not io.BatchSampler:
        return DrawnBatches(sampler, None, drop_last=False, lists=world_size if where.per_trainer else 1, **drawn)
    order, size, drop_last = sampler.sampler, where.of_all(sampler.batch_size), sampler.drop_last
    shuffled = type(order) is io.RandomSampler and not order.replacement and order.generator is None
    whole = hasattr(order, "__len__") and len(order) == len(dataset)
    if (type(order) is io.SequenceSampler or shuffled) and whole:
        return GlobalBatches(len(dataset), size, shuffle=shuffled, drop_last=drop_last, **who)
    return DrawnBatches(order, size, drop_last=drop_last, lists=1, **drawn)


class Indices:
    """This trainer's parts as lists of indices: what a DataLoader takes as its batch sampler."""

    def __init__(self, batches: GlobalBatches | DrawnBatches) -> None:
        self.batches = batches
        self.epoch, self.position = 0, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for part in self.batches.parts(self.epoch, self.position):
            yield part.indices.tolist()


class PaddleBatches:
    """The batches of a DataLoader over indexed samples, at this trainer's parts."""

    def __init__(self, source: Any, indices: Indices) -> None:
        self.loader, self.indices = copy.copy(source), indices
        self.loader.batch_sampler = indices
        self.loader._iterator = None  # the source's persistent workers, if it has some, follow the source's sampler
        self.loader.dataset, self.loader.worker_init_fn = Samples(source.dataset), _init_of(source)
        self.loader.collate_fn = collated(_collate(source), lambda: [0])

    def __iter__(self) -> Iterator[Any]:
        # A generator, because Paddle's iterator raises "No associated state" when it is asked again after its end.
        finished = False
        try:
            for found in self.loader:
                yield opened(found)[1]
            finished = True
        finally:
            if not finished:
                # Persistent workers that were left in the middle of an epoch fail in the next one (3.3.1 and 2.6.2:
                # IndexError in _restore_batch): let new ones start.
                self.loader._iterator = None


class PaddleStream:
    """The batches of a DataLoader over a stream: this trainer's parts, each with its sizes."""

    def __init__(self, source: Any, batches: StreamBatches) -> None:
        self._dataset = source.dataset
        self._stream = Stream(source.dataset, batches)
        self.loader = copy.copy(source)
        self.loader.dataset, self.loader.worker_init_fn = Items(self._stream), _init_of(source)
        self.loader.batch_sampler = _Slots(batches.part_size)
        self.loader.collate_fn = collated(_collate(source), self._stream.sizes)
        self.loader.drop_last = False  # fleet.data.shard has left the rest out, for all trainers alike

    def read(self, epoch: int, position: int) -> Iterator[tuple[Any, tuple[int, int]]]:
        """Yield each batch with (num_samples, num_global)."""
        if hasattr(self._dataset, "set_epoch"):
            self._dataset.set_epoch(epoch)
        self._stream.position = position
        for found in self.loader:
            (num_samples, num_global), batch = opened(found)
            yield batch, (num_samples, num_global)


class _Slots:
    """A batch sampler for a stream: so many samples at a time, without end."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[None]]:
        while True:
            yield [None] * self.batch_size


def _init_of(source: Any) -> Callable[[int], None]:
    """Return a worker's first call: it shows the user's own set in get_worker_info(), then does what the user wants."""
    dataset, given = source.dataset, source.worker_init_fn

    def init(worker: int) -> None:
        from paddle import io

        io.get_worker_info().__dict__["dataset"] = dataset
        if given is not None:
            given(worker)

    return init


def _collate(source: Any) -> Callable[[list[Any]], Any]:
    from paddle.io.dataloader import collate

    return source.collate_fn or collate.default_collate_fn  # type: ignore[no-any-return]


def _refusal(what: str, fix: str) -> ConfigError:
    return ConfigError(f"cannot share out {what}", at=_PLACE, fix=fix)
