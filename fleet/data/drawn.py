"""Global batches of a sampler, or a batch sampler, of the user's own: drawn whole once an epoch, the same by every trainer.

Before each drawing Python's, NumPy's and Paddle's generators are seeded from (seed, epoch), and put back after it. A sampler
with a ``set_epoch`` is told the epoch; one without is drawn once for every epoch that lies before, so that what it keeps
itself is as it would be. What was drawn is compared: among the trainers, and with what a resumed position was taken in.
"""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fleet.data.sampler import Cursor, Part, State, share
from fleet.errors import ConfigError, SnapshotError

Meet = Callable[[str, bytes], list[bytes]]


class DrawnBatches(Cursor):
    """Cut what a sampler draws in global batches, and these in parts; as GlobalBatches otherwise.

    Args:
        sampler: yields indices, or lists of indices if ``batch_size`` is None.
        batch_size: of a global batch; None: each list is a batch.
        lists: how many lists of a batch sampler make a global batch: one, which is cut; or ``world_size``, one for each trainer.
        meet: brings the words of all trainers together, in rank order.

    Raises:
        ConfigError: (in a pass) it draws no integers, nothing, or not the same on all trainers.
        SnapshotError: (in a pass) it does not draw what it drew before the position was saved.

    Cost: all indices of an epoch in memory, and a resume draws every epoch before (unless there is a ``set_epoch``).
    """

    def __init__(
        self, sampler: Any, batch_size: int | None, *, num_samples: int, drop_last: bool, seed: int, rank: int, world_size: int,
        lists: int, meet: Meet,
    ) -> None:  # fmt: skip
        super().__init__(num_samples, shuffle=False, seed=seed, order=f"drawn by {type(sampler).__name__}")
        self._sampler, self._size, self._drop_last = sampler, batch_size, drop_last
        self.batch_size = batch_size or int(getattr(sampler, "batch_size", 0) or 0) * lists
        self.rank, self.world_size, self._lists, self._meet = rank, world_size, lists, meet
        self._drawn_epochs = 0  # how often a sampler without set_epoch was drawn
        self._of, self._indices, self._borders = -1, np.empty(0, np.int64), np.zeros(1, np.int64)  # the epoch in hand
        self._crc = 0
        self._saved_crc: int | None = None  # of the epoch in which a loaded position was taken

    def __len__(self) -> int:
        if self._of >= 0:
            return len(self._cuts(0))
        if not hasattr(self._sampler, "__len__"):
            raise TypeError(f"{type(self._sampler).__name__} has no len()")
        num = len(self._sampler)
        return -(-num // self._lists) if self._size is None else num // self._size if self._drop_last else -(-num // self._size)

    @property
    def done(self) -> int:
        """Batches of this epoch that were handed out."""
        return int(np.searchsorted(self._borders, self._position)) if self._size is None else -(-self._position // self._size)

    def begin(self) -> tuple[int, int]:
        """Begin a pass: draw its order; return its epoch and the position at which it starts."""
        epoch, position = super().begin()
        self._draw(epoch)
        if position > len(self._indices) or (self._size is None and position not in self._borders):
            what = f"the saved position, sample {position}, is no border of the batches that {self._name} draws"
            raise SnapshotError(what, at="loader", fix="resume with the batch sampler that it was saved with")
        return epoch, position

    def parts(self, epoch: int, position: int) -> Iterator[Part]:
        """Yield this trainer's parts of ``epoch`` from ``position`` on, without moving the state."""
        assert epoch == self._of, "begin() draws the epoch"
        for start, low, high, end in self._cuts(position):
            indices = self._indices[low:high] if high > low else self._indices[start : start + 1]
            yield Part(indices, high - low, end - start)

    def sizes(self, position: int) -> Iterator[tuple[int, int]]:
        """Yield (num_samples, num_global) of each part from ``position`` on."""
        for start, low, high, end in self._cuts(position):
            yield high - low, end - start

    def state(self) -> State:
        """Return where the epoch stands, and a checksum of its order."""
        state: Any = {**super().state(), "drawn": self._crc if self._epoch == self._of else None}
        return state  # type: ignore[no-any-return]

    def load(self, state: State) -> None:
        """As Cursor's; the order itself is compared once it is drawn again."""
        super().load(state)
        self._saved_crc = state.get("drawn") if state["position"] else None  # type: ignore[assignment]

    @property
    def _name(self) -> str:
        return type(self._sampler).__name__

    def _cuts(self, position: int) -> list[tuple[int, int, int, int]]:
        """Return of each global batch from ``position`` on: its start, this trainer's part from and to, its end."""
        found = []
        if self._size is not None:
            for start in range(position, len(self._indices), self._size):
                end = min(start + self._size, len(self._indices))
                if end - start == self._size or not self._drop_last:
                    low, high = share(end - start, self.rank, self.world_size)
                    found.append((start, start + low, start + high, end))
            return found
        first = int(np.searchsorted(self._borders, position))
        for at in range(first, len(self._borders) - 1, self._lists):
            start, end = int(self._borders[at]), int(self._borders[min(at + self._lists, len(self._borders) - 1)])
            if self._lists == 1:
                low, high = share(end - start, self.rank, self.world_size)
                found.append((start, start + low, start + high, end))
            else:
                low, high = (int(self._borders[min(at + self.rank + i, len(self._borders) - 1)]) for i in (0, 1))
                found.append((start, low, high, end))
        return found

    def _draw(self, epoch: int) -> None:
        if epoch == self._of:
            return
        sets_epoch = hasattr(self._sampler, "set_epoch")
        if sets_epoch:
            self._sampler.set_epoch(epoch)
        elif epoch < self._drawn_epochs:
            what = f"{self._name} was drawn beyond epoch {epoch} and cannot go back"
            raise ConfigError(what, at="loader", fix="give it a set_epoch(epoch) from which its order follows")
        else:
            for past in range(self._drawn_epochs, epoch):
                self._once(past)
            self._drawn_epochs = epoch + 1
        drawn = self._once(epoch)
        try:
            lists = [np.asarray(one, np.int64).reshape(-1) for one in (drawn if self._size is None else [drawn])]
        except (ValueError, TypeError, OverflowError) as error:
            fix = "let it yield integers" if self._size else "let it yield lists of integers"
            raise ConfigError(f"{self._name} draws something that is no index: {error}", at="loader", fix=fix) from None
        lists = [one for one in lists if len(one)]
        if not lists:
            raise ConfigError(f"{self._name} drew no sample in epoch {epoch}", at="loader", fix="let each pass over it draw some")
        self._indices, self._of = np.concatenate(lists), epoch
        self._borders = np.cumsum([0, *map(len, lists)])
        self._crc = zlib.crc32(self._borders.tobytes(), zlib.crc32(self._indices.tobytes()))
        self._agree(epoch)
        if self._saved_crc is not None and self._saved_crc != self._crc:
            what = f"{self._name} draws another order of epoch {epoch} than before the position was saved"
            fix = "let its order follow from set_epoch(epoch), or from generators that it does not own"
            raise SnapshotError(what, at="loader", fix=fix)
        self._saved_crc = None

    def _once(self, epoch: int) -> list[Any]:
        with seeded(self.seed, epoch):
            return list(self._sampler)

    def _agree(self, epoch: int) -> None:
        said = self._meet(f"order of epoch {epoch}", f"{len(self._indices)} {self._crc}".encode())
        others = [rank for rank, words in enumerate(said) if words != said[0]]
        if others:
            who = ", ".join(map(str, others))
            what = f"{self._name} does not draw the same on all trainers: {who} differ from trainer 0"
            fix = "let its order follow from set_epoch(epoch), or from Python's, NumPy's or Paddle's generator: fleet seeds these"
            raise ConfigError(what, at=f"loader, epoch {epoch}", fix=fix)


@contextlib.contextmanager
def seeded(seed: int, epoch: int) -> Iterator[None]:
    """Seed Python's, NumPy's and Paddle's generators from (seed, epoch), and put them back."""
    import paddle

    kept = random.getstate(), np.random.get_state(), paddle.get_rng_state()
    number = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint32)[0])
    try:
        random.seed(number)
        np.random.seed(number)
        paddle.seed(number)
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        paddle.set_rng_state(kept[2])

