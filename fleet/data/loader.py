"""A loader of which each trainer gets its part, and which knows where it stands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

from fleet import timeline
from fleet.data.arrays import ArrayLoader
from fleet.data.drawn import DrawnBatches
from fleet.data.file_loader import FileLoader
from fleet.data.image_loader import ImageLoader
from fleet.data.paddle_loader import Indices, PaddleBatches, PaddleStream, Where, batches_of
from fleet.data.sampler import GlobalBatches, State
from fleet.data.stream import StreamBatches
from fleet.errors import ConfigError

_PLACE = "the loader given to distributed_loader"


class ShardedLoader:
    """Yield this trainer's part of each global batch of ``source``.

    Each ``iter()`` is the next epoch. A loop that is left early has not finished its epoch: ``state()`` still says where
    it was left (so a checkpoint written after an exception resumes there), and the next ``iter()`` begins the next epoch.

    Under ``no_grad`` an empty part is left out, so that an evaluation counts every sample once.

    Args:
        source: an ArrayLoader, an ImageLoader, a FileLoader, or a ``paddle.io.DataLoader``: over a map-style set with
            batch_size, shuffle and drop_last or with samplers of the user's own, or over a stream that uses
            ``fleet.data.shard``. Its other settings (workers, collate_fn, ...) are kept; it is not changed.
        rank, world_size: this trainer, and how many share each batch.
        seed: of a DataLoader's shuffles; ours bring their own, so that it draws the same order as alone.
        batch: ``"global"``: the source's batch is the global batch; ``"per_trainer"``: every trainer gets a batch of that
            size, the global batch is ``batch_size * world_size``.
        on_batch: called as ``on_batch(num_samples, num_global)`` when a batch is handed out: how many of its samples
            count (0: an empty part, computed on one sample with weight 0), and the size of the global batch.
        announce: called with each batch one batch ahead of the loop: with batch k+1 before batch k is handed out, and
            with the first batch before the second. Then one batch more is kept in memory.
        meet: brings the words of all trainers together, in rank order: what they share has to be the same.

    Raises:
        ConfigError: a source whose way of sampling cannot be shared out, or not the same on all trainers; the message says
            what to do.
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
        meet: Callable[[str, bytes], list[bytes]] = lambda what, words: [words],
    ) -> None:
        if batch not in ("global", "per_trainer"):
            what = f'batch must be "global" or "per_trainer", got {batch!r}'
            raise ConfigError(what, at="$.strategy.batch", fix="use one of the two")
        where = Where(rank, world_size, batch == "per_trainer", seed, meet)
        self._batches: GlobalBatches | DrawnBatches | StreamBatches
        stretches = world_size if where.per_trainer else 1  # in which the lines of files are shared out
        if isinstance(source, (ArrayLoader, ImageLoader, FileLoader)):
            self._batches = _batches_of_ours(source, where, stretches)
        else:
            self._batches = batches_of(source, where)
        self._on_batch, self._announce, self._meet = on_batch, announce, meet
        self.after_batch: Callable[[], None] | None = None  # called when the loop comes back: the batch's body has ended
        self._fetch: _Batches | PaddleStream
        if isinstance(self._batches, StreamBatches):
            self._fetch = PaddleStream(source, self._batches)
        elif isinstance(source, FileLoader):
            self._fetch = _FileBatches(source, Indices(self._batches), stretches)
        elif isinstance(source, (ArrayLoader, ImageLoader)):
            self._fetch = _ArrayBatches(source, Indices(self._batches))
        else:
            self._fetch = PaddleBatches(source, Indices(self._batches))
        self._agree()

    def __len__(self) -> int:
        """Return the batches of a whole epoch, the same on all trainers.

        Raises:
            TypeError: nobody knows: a stream, or a sampler without a length that has not been drawn yet.
        """
        return len(self._batches)

    @property
    def num_batches(self) -> int:
        """Batches of a whole epoch; 0 if nobody knows."""
        try:
            return len(self._batches)
        except TypeError:
            return 0

    @property
    def num_samples(self) -> int:
        """Samples of the data set, of all trainers together; 0 if nobody knows."""
        return self._batches.num_samples

    @property
    def global_batch_size(self) -> int:
        """Samples of a full global batch; 0 if they differ."""
        return self._batches.batch_size

    def __iter__(self) -> Iterator[Any]:
        epoch, position = self._batches.begin()
        # Workers and a DataLoader's buffer run ahead of the loop: the position counts what is handed out, here.
        began = timeline.now()
        for batch, (num_samples, num_global) in self._announced(self._sized(epoch, position)):
            timeline.mark("load", "next batch", began)
            self._batches.consume(num_global)
            if num_samples == 0 and not _learns():
                continue  # evaluation: a borrowed sample would be counted twice, and no gradient waits for this trainer
            self._on_batch(num_samples, num_global)
            yield batch
            if self.after_batch is not None:
                self.after_batch()
            began = timeline.now()
        if isinstance(self._batches, StreamBatches):
            self._agree_end(epoch)
        self._batches.finish()

    @property
    def epoch(self) -> int:
        """The epoch in hand, from 0."""
        return self._batches.state()["epoch"]

    @property
    def batches_done(self) -> int:
        """Global batches of this epoch that were handed out."""
        return self._batches.done

    @property
    def at_end(self) -> bool:
        """Whether the batch in hand is known to be the epoch's last."""
        return 0 < self.num_batches <= self.batches_done

    def state(self) -> State:
        """Return where the epoch stands, in global samples; the batch in hand counts as consumed."""
        return self._batches.state()

    def load(self, state: State) -> None:
        """Make the next pass begin where ``state`` was taken, on any number of trainers.

        Raises:
            SnapshotError: the state belongs to other data or another seed; nothing was loaded.
        """
        self._batches.load(state)

    def _sized(self, epoch: int, position: int) -> Iterator[tuple[Any, tuple[int, int]]]:
        if isinstance(self._fetch, PaddleStream):
            yield from self._fetch.read(epoch, position)
            return
        self._fetch.indices.epoch, self._fetch.indices.position = epoch, position
        yield from zip(self._fetch, self._fetch.indices.batches.sizes(position), strict=True)

    def _announced(self, batches: Iterator[tuple[Any, tuple[int, int]]]) -> Iterator[tuple[Any, tuple[int, int]]]:
        if self._announce is None:
            yield from batches
            return
        for first in batches:
            self._announce(first[0])
            held = first
            for ahead in batches:
                self._announce(ahead[0])
                yield held
                held = ahead
            yield held

    def _agree(self) -> None:
        """Check that all trainers share out the same samples: with loaders of different length they would wait for ever."""
        state = self._batches.state()
        mine = {
            "samples": state["num_samples"], "samples of a global batch": self.global_batch_size,
            "drop_last": getattr(self._batches, "drop_last", False), "shuffle": state["shuffle"], "seed": state["seed"],
            "order": state["order"],
        }  # fmt: skip
        said = [json.loads(words) for words in self._meet("agreement on the loader", json.dumps(mine).encode())]
        for name in mine:
            if any(theirs[name] != said[0][name] for theirs in said):
                each = ", ".join(f"trainer {rank}: {theirs[name]}" for rank, theirs in enumerate(said))
                fix = "make the loader of the same data set, with the same settings, on every trainer: fleet shares it out"
                raise ConfigError(f"the loaders differ between trainers in {name} ({each})", at=_PLACE, fix=fix)

    def _agree_end(self, epoch: int) -> None:
        position = self._batches.state()["position"]
        said = [int(words) for words in self._meet(f"end of the data of epoch {epoch}", str(position).encode())]
        if len(set(said)) > 1:
            each = ", ".join(f"trainer {rank}: {num}" for rank, num in enumerate(said))
            what = f"the streams differ in length between trainers (samples of all: {each})"
            raise ConfigError(what, at=_PLACE, fix="let every trainer read the same stream; fleet.data.shard shares it out")


def _learns() -> bool:
    import paddle

    return bool(paddle.is_grad_enabled())


def _batches_of_ours(source: ArrayLoader | ImageLoader | FileLoader, where: Where, stretches: int) -> GlobalBatches:
    return GlobalBatches(
        source.num_lines if isinstance(source, FileLoader) else source.num_samples,
        where.of_all(source.batch_size),
        shuffle=False if isinstance(source, FileLoader) else source.shuffle,  # it shuffles by itself
        drop_last=source.drop_last,
        seed=source.seed,
        rank=where.rank,
        world_size=where.world_size,
        order=source.order(stretches) if isinstance(source, FileLoader) else "",
    )


class _ArrayBatches:
    """The batches of an ArrayLoader or an ImageLoader at this trainer's parts."""

    def __init__(self, source: ArrayLoader | ImageLoader, indices: Indices) -> None:
        self.source, self.indices = source, indices

    def __iter__(self) -> Iterator[Any]:
        epoch = self.indices.epoch
        yield from self.source.read(epoch, self.indices.batches.parts(epoch, self.indices.position))


class _FileBatches:
    """The batches of a FileLoader at this trainer's parts of each batch, or in this trainer's stretch of the lines."""

    def __init__(self, source: FileLoader, indices: Indices, stretches: int) -> None:
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


_Batches = _ArrayBatches | _FileBatches | PaddleBatches
