"""A loader of which each trainer gets its part, and which knows where it stands."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from fleet.data.arrays import ArrayLoader
from fleet.data.file_loader import FileLoader
from fleet.data.image_loader import ImageLoader
from fleet.data.sampler import GlobalBatches, State
from fleet.errors import ConfigError

_PLACE = "the loader given to distributed_loader"


class ShardedLoader:
    """Yield this trainer's part of each global batch of ``source``.

    Each ``iter()`` is the next epoch. A loop that is left early has not finished its epoch: ``state()`` still says where
    it was left (so a checkpoint written after an exception resumes there), and the next ``iter()`` begins the next epoch.

    Under ``no_grad`` an empty part is left out, so that an evaluation counts every sample once.

    Args:
        source: an ArrayLoader, an ImageLoader, a FileLoader, or a ``paddle.io.DataLoader`` over a map-style data set that
            samples by ``batch_size``, ``shuffle`` and ``drop_last``. Its other settings (workers, collate_fn, ...) are kept; it
            is not changed.
        rank, world_size: this trainer, and how many share each batch.
        seed: of a DataLoader's shuffles; ours bring their own, so that it draws the same order as alone.
        batch: ``"global"``: the source's batch is the global batch; ``"per_trainer"``: every trainer gets a batch of that
            size, the global batch is ``batch_size * world_size``.
        on_batch: called as ``on_batch(num_samples, num_global)`` when a batch is handed out: how many of its samples
            count (0: an empty part, computed on one sample with weight 0), and the size of the global batch.
        announce: called with each batch one batch ahead of the loop: with batch k+1 before batch k is handed out, and
            with the first batch before the second. Then one batch more is kept in memory.

    Raises:
        ConfigError: a source whose way of sampling cannot be shared out; the message says what to do.
    """

    def __init__(
        self,
        source: Any,
        *,
        rank: int,
        world_size: int,
        seed: int,
        batch: Literal["global", "per_trainer"],
        on_batch: Callable[[int, int], None],
        announce: Callable[[Any], None] | None = None,
    ) -> None:
        if batch not in ("global", "per_trainer"):
            what = f'batch must be "global" or "per_trainer", got {batch!r}'
            raise ConfigError(what, at="$.strategy.batch", fix="use one of the two")
        own = isinstance(source, (ArrayLoader, ImageLoader, FileLoader))
        num_samples, batch_size, shuffle, drop_last = _sampling_of_ours(source) if own else _sampling_of_paddle(source)
        stretches = world_size if batch == "per_trainer" else 1  # in which the lines of files are shared out
        self._batches = GlobalBatches(
            num_samples,
            batch_size * world_size if batch == "per_trainer" else batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=source.seed if own else seed,
            rank=rank,
            world_size=world_size,
            order=source.order(stretches) if isinstance(source, FileLoader) else "",
        )
        self._on_batch, self._announce = on_batch, announce
        self.after_batch: Callable[[], None] | None = None  # called when the loop comes back: the batch's body has ended
        self._indices = _Indices(self._batches)
        self._fetch: Iterable[Any]
        if isinstance(source, FileLoader):
            self._fetch = _FileBatches(source, self._indices, stretches)
        else:
            self._fetch = _ArrayBatches(source, self._indices) if own else _PaddleBatches(source, self._indices)

    def __len__(self) -> int:
        """Return the batches of a whole epoch, the same on all trainers."""
        return len(self._batches)

    @property
    def num_samples(self) -> int:
        """Samples of the data set, of all trainers together."""
        return self._batches.num_samples

    @property
    def global_batch_size(self) -> int:
        """Samples of a full global batch."""
        return self._batches.batch_size

    def __iter__(self) -> Iterator[Any]:
        self._indices.epoch, self._indices.position = self._batches.begin()
        sizes = self._batches.sizes(self._indices.position)
        # Workers and a DataLoader's buffer run ahead of the loop: the position counts what is handed out, here.
        batches = iter(self._fetch)
        for batch, (num_samples, num_global) in zip(self._announced(batches), sizes, strict=True):
            self._batches.consume(num_global)
            if num_samples == 0 and not _learns():
                continue  # evaluation: a borrowed sample would be counted twice, and no gradient waits for this trainer
            self._on_batch(num_samples, num_global)
            yield batch
            if self.after_batch is not None:
                self.after_batch()
        self._batches.finish()

    @property
    def epoch(self) -> int:
        """The epoch in hand, from 0."""
        return self._batches.state()["epoch"]

    @property
    def batches_done(self) -> int:
        """Global batches of this epoch that were handed out."""
        return -(-self._batches.state()["position"] // self.global_batch_size)

    def state(self) -> State:
        """Return where the epoch stands, in global samples; the batch in hand counts as consumed."""
        return self._batches.state()

    def load(self, state: State) -> None:
        """Make the next pass begin where ``state`` was taken, on any number of trainers.

        Raises:
            SnapshotError: the state belongs to other data or another seed; nothing was loaded.
        """
        self._batches.load(state)

    def _announced(self, batches: Iterator[Any]) -> Iterator[Any]:
        if self._announce is None:
            yield from batches
            return
        for first in batches:
            self._announce(first)
            held = first
            for ahead in batches:
                self._announce(ahead)
                yield held
                held = ahead
            yield held


def _learns() -> bool:
    import paddle

    return bool(paddle.is_grad_enabled())


class _Indices:
    """This trainer's parts as lists of indices: what a DataLoader takes as its batch sampler."""

    def __init__(self, batches: GlobalBatches) -> None:
        self.batches = batches
        self.epoch, self.position = 0, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for part in self.batches.parts(self.epoch, self.position):
            yield part.indices.tolist()


class _ArrayBatches:
    """The batches of an ArrayLoader or an ImageLoader at this trainer's parts."""

    def __init__(self, source: ArrayLoader | ImageLoader, indices: _Indices) -> None:
        self.source, self.indices = source, indices

    def __iter__(self) -> Iterator[Any]:
        epoch = self.indices.epoch
        yield from self.source.read(epoch, self.indices.batches.parts(epoch, self.indices.position))


class _FileBatches:
    """The batches of a FileLoader at this trainer's parts of each batch, or in this trainer's stretch of the lines."""

    def __init__(self, source: FileLoader, indices: _Indices, stretches: int) -> None:
        self.source, self.indices, self.stretches = source, indices, stretches
        if source.num_lines < stretches:
            what = f"{source.num_lines} lines cannot be shared out over {stretches} trainers"
            raise ConfigError(what, at=_PLACE, fix='use batch="global", or fewer trainers')

    def __iter__(self) -> Iterator[Any]:
        batches, epoch = self.indices.batches, self.indices.epoch
        share = batches.rank if self.stretches > 1 else 0
        low, high = (at * self.source.num_lines // self.stretches for at in (share, share + 1))
        for batch, num_samples in self.source.read(epoch, low, high, lambda: self._ranges(high - low)):
            if not num_samples:
                fix = "take the bad lines out of the files, or use a larger batch size"
                raise ConfigError("every line of a trainer's part of a batch is bad", at=_PLACE, fix=fix)
            yield batch

    def _ranges(self, num_lines: int) -> Iterator[tuple[int, int]]:
        batches, position = self.indices.batches, self.indices.position
        if self.stretches == 1:
            for part in batches.parts(self.indices.epoch, position):
                yield int(part.indices[0]), int(part.indices[-1]) + 1
            return
        size = self.source.batch_size
        for at, _ in enumerate(batches.sizes(position), position // batches.batch_size):
            # An empty part, behind the end of this stretch, borrows the last line.
            yield min(at * size, num_lines - 1), max(min((at + 1) * size, num_lines), 1)


class _PaddleBatches:
    """The batches of a DataLoader with all the settings of ``source``, at this trainer's parts."""

    def __init__(self, source: Any, indices: _Indices) -> None:
        self.loader = copy.copy(source)
        self.loader.batch_sampler = indices
        self.loader._iterator = None  # the source's persistent workers, if it has some, follow the source's sampler

    def __iter__(self) -> Iterator[Any]:
        # A generator, because Paddle's iterator raises "No associated state" when it is asked again after its end.
        finished = False
        try:
            yield from self.loader
            finished = True
        finally:
            if not finished:
                # Persistent workers that were left in the middle of an epoch fail in the next one (3.3.1 and 2.6.2:
                # IndexError in _restore_batch): let new ones start.
                self.loader._iterator = None


def _sampling_of_ours(source: ArrayLoader | ImageLoader | FileLoader) -> tuple[int, int, bool, bool]:
    if isinstance(source, FileLoader):
        return source.num_lines, source.batch_size, False, source.drop_last  # it shuffles by itself
    return source.num_samples, source.batch_size, source.shuffle, source.drop_last


def _sampling_of_paddle(source: Any) -> tuple[int, int, bool, bool]:
    """Read number of samples, batch size, shuffle and drop_last of a DataLoader, or refuse it."""
    from paddle import io

    if type(source) is not io.DataLoader:
        raise _refusal(
            f"a loader of type {type(source).__module__}.{type(source).__qualname__}",
            "give a paddle.io.DataLoader itself or a fleet.data.ArrayLoader",
        )
    if isinstance(source.dataset, io.IterableDataset):
        raise _refusal(
            "an IterableDataset: it has no indices to share out",
            "use a map-style Dataset, a fleet.data.ArrayLoader, or a fleet.data.FileLoader for files larger than memory",
        )
    sampler = source.batch_sampler
    if sampler is None:
        raise _refusal(
            "batch_size=None: without a batch size there is no global batch",
            "let the data set return single samples and set batch_size, or use a fleet.data.ArrayLoader for batches of arrays",
        )
    kind = type(sampler).__name__
    if type(sampler) is not io.BatchSampler:
        shared = "DistributedBatchSampler" in kind
        raise _refusal(
            f"the batch sampler {kind}" + (", which shares out samples already" if shared else ""),
            "leave batch_sampler out and set batch_size, shuffle and drop_last"
            + (", or do without distributed_loader" if shared else ""),
        )
    _check_order(sampler.sampler, source.dataset)
    return len(source.dataset), sampler.batch_size, type(sampler.sampler) is io.RandomSampler, sampler.drop_last


def _check_order(order: Any, dataset: Any) -> None:
    """Refuse every order of samples but the data set's own and a plain shuffle of all of it."""
    from paddle import io

    advice = "leave the sampler out and set shuffle=True or shuffle=False: fleet shuffles all samples, from (seed, epoch)"
    if type(order) not in (io.SequenceSampler, io.RandomSampler):
        raise _refusal(f"the sampler {type(order).__name__}", advice)
    if type(order) is io.RandomSampler and (order.replacement or order.generator is not None):
        raise _refusal("a RandomSampler with " + ("replacement" if order.replacement else "its own generator"), advice)
    if not hasattr(dataset, "__len__"):
        raise _refusal(f"the data set {type(dataset).__name__}, which has no __len__", "give it a __len__")
    if len(order) != len(dataset):
        some = f"a sampler of {len(order)} of the data set's {len(dataset)} samples"
        raise _refusal(some, advice + "; use paddle.io.Subset for a part of them")


def _refusal(what: str, fix: str) -> ConfigError:
    return ConfigError(f"cannot share out {what}", at=_PLACE, fix=fix)
