"""Which samples a trainer takes from each global batch, and where an epoch stands.

The global batch is the script's batch. All trainers draw the same order of an epoch from (seed, epoch); each
global batch is cut contiguously in ``world_size`` parts. So the order does not depend on ``world_size``, no
sample is repeated to fill up, and a position counted in global samples can be resumed by any number of trainers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from fleet.errors import ConfigError, SnapshotError

Indices = npt.NDArray[np.int64]


class Part(NamedTuple):
    """One trainer's part of one global batch.

    An empty part (a last batch with fewer samples than trainers) holds the batch's first sample with
    ``num_samples`` 0: the trainer computes on something real, and its gradient takes weight 0.
    """

    indices: Indices  # int64[max(num_samples, 1)]
    num_samples: int
    num_global: int


class State(TypedDict):
    """Where an epoch stands: ``position`` counts the global samples consumed of ``epoch``."""

    epoch: int
    position: int
    seed: int
    num_samples: int
    shuffle: bool
    order: str


class GlobalBatches:
    """Cut every global batch of an epoch in parts and yield this trainer's.

    Each pass is the next epoch, also after a pass that was left early. ``len()`` is the batches of a whole epoch.

    Args:
        num_samples: samples of the data set, the same on all trainers.
        batch_size: samples of a global batch.
        shuffle: a new order each epoch, drawn from (seed, epoch), or the order of the data set.
        drop_last: leave out a last batch that is not full.
        seed: the same on all trainers.
        order: what else the order depends on, where the caller draws it: part of the state.

    Raises:
        ConfigError: no samples, a batch size below 1, no full batch with ``drop_last``, a rank outside its world.

    Example:
        >>> [part.indices.tolist() for part in GlobalBatches(7, 4, shuffle=False, drop_last=False, seed=0, rank=1, world_size=2)]
        [[2, 3], [5, 6]]
    """

    def __init__(
        self, num_samples: int, batch_size: int, *, shuffle: bool, drop_last: bool, seed: int, rank: int, world_size: int,
        order: str = "",
    ) -> None:  # fmt: skip
        _check(num_samples, batch_size, drop_last, seed, rank, world_size)
        self.num_samples, self.batch_size = num_samples, batch_size
        self.shuffle, self.drop_last, self.seed = shuffle, drop_last, seed
        self.rank, self.world_size, self.order = rank, world_size, order
        self._epoch, self._position = 0, 0
        self._next = (0, 0)  # epoch and position at which the next pass begins
        self._order: tuple[int, Indices | None] = (-1, None)

    def __len__(self) -> int:
        whole, rest = divmod(self.num_samples, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Part]:
        epoch, position = self.begin()
        for part in self.parts(epoch, position):
            self.consume(part.num_global)
            yield part
        self.finish()

    def begin(self) -> tuple[int, int]:
        """Begin a pass; return its epoch and the position at which it starts."""
        self._epoch, self._position = self._next
        self._next = (self._epoch + 1, 0)
        return self._epoch, self._position

    def consume(self, num_global: int) -> None:
        """Count a batch as handed out: a state taken from now on resumes after it."""
        self._position += num_global

    def finish(self) -> None:
        """End a pass: a state taken from now on is the start of the next epoch."""
        self._epoch, self._position = self._next

    def parts(self, epoch: int, position: int) -> Iterator[Part]:
        """Yield this trainer's parts of ``epoch`` from ``position`` on, without moving the state.

        Cost: one permutation of ``num_samples`` an epoch (it is kept), then one view a batch.
        """
        order = self._order_of(epoch) if self.shuffle else None
        for start, num_global in self._batches(position):
            first, end = self._cut(num_global)
            num_samples = end - first
            low, high = (start + first, start + end) if num_samples else (start, start + 1)
            indices = np.arange(low, high, dtype=np.int64) if order is None else order[low:high]
            yield Part(indices, num_samples, num_global)

    def sizes(self, position: int) -> Iterator[tuple[int, int]]:
        """Yield (num_samples, num_global) of each part from ``position`` on."""
        for _, num_global in self._batches(position):
            first, end = self._cut(num_global)
            yield end - first, num_global

    def state(self) -> State:
        """Return where the epoch stands. Inside a loop's body, the batch in hand counts as consumed."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            "seed": self.seed,
            "num_samples": self.num_samples,
            "shuffle": self.shuffle,
            "order": self.order,
        }

    def load(self, state: State) -> None:
        """Make the next pass begin where ``state`` was taken; it may have been taken on another number of trainers.

        A state taken in the body of an epoch's last batch gives an empty pass first: what a script does after
        its inner loop is then done for that epoch, too.

        Raises:
            SnapshotError: the state belongs to other data or another seed; nothing was loaded.
        """
        mine = self.state()
        state = {**state, "order": state.get("order", "")}
        for name in ("seed", "num_samples", "shuffle", "order"):
            if state[name] != mine[name]:
                raise SnapshotError(
                    f"the loader's saved position has {name}={state[name]}, this loader has {name}={mine[name]}, "
                    "so its order of samples differs",
                    at="loader",
                    fix=f"resume with {name}={state[name]}, or start afresh without the checkpoint",
                )
        if state["epoch"] < 0 or not 0 <= state["position"] <= self.num_samples:
            raise SnapshotError(
                f"the loader's saved position, sample {state['position']} of epoch {state['epoch']}, "
                f"lies outside {self.num_samples} samples",
                at="loader",
                fix="the checkpoint is damaged: resume from an older one",
            )
        self._epoch, self._position = self._next = state["epoch"], state["position"]

    def start_at(self, epoch: int) -> None:
        """Make the next pass begin at the start of ``epoch``."""
        self._epoch, self._position = self._next = epoch, 0

    def _batches(self, position: int) -> Iterator[tuple[int, int]]:
        """Yield the start and the size of each global batch from ``position`` on."""
        for start in range(position, self.num_samples, self.batch_size):
            num_global = min(self.batch_size, self.num_samples - start)
            if num_global < self.batch_size and self.drop_last:
                return
            yield start, num_global

    def _cut(self, num_global: int) -> tuple[int, int]:
        return self.rank * num_global // self.world_size, (self.rank + 1) * num_global // self.world_size

    def _order_of(self, epoch: int) -> Indices:
        kept, order = self._order
        if kept != epoch or order is None:
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch])))
            order = rng.permutation(self.num_samples).astype(np.int64, copy=False)
            order.flags.writeable = False
            self._order = (epoch, order)
        return order


def _check(num_samples: int, batch_size: int, drop_last: bool, seed: int, rank: int, world_size: int) -> None:
    if num_samples < 1:
        raise ConfigError("the data set is empty", at="loader", fix="give it at least one sample")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be an int >= 1, got {batch_size}", at="loader", fix="use a batch size of at least 1")
    if drop_last and num_samples < batch_size:
        raise ConfigError(
            f"drop_last leaves nothing: {num_samples} samples do not fill one global batch of {batch_size}",
            at="loader",
            fix="use a smaller batch size or drop_last=False",
        )
    if seed < 0:
        raise ConfigError(f"seed must be an int >= 0, got {seed}", at="loader", fix="use a seed of at least 0")
    if world_size < 1 or not 0 <= rank < world_size:
        what = f"rank {rank} does not lie in a world of {world_size}"
        raise ConfigError(what, at="loader", fix="use a rank from 0 to world_size - 1")
