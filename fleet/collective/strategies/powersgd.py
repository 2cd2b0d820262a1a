"""``powersgd``: a matrix of gradients travels as two thin ones."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from fleet.collective.strategies.codec import Codec, Part
from fleet.collective.strategies.hooks import State, Trainer, Wire
from fleet.config import Field
from fleet.errors import ConfigError


class PowerSgd(Codec):
    """Send the gradient of an n x m matrix as P (n x rank) and Q (m x rank), found by one step of power iteration.

    The step begins at the Q of the step before (warm start), at first at one drawn by the parameter's name; what P Q' leaves out
    of a trainer's gradient is added to its next one. Tensors of more dimensions are matrices of (first, all others); vectors,
    and matrices that would not become smaller, travel as they are.

    Bytes a step: 4 x rank x (n + m) for a matrix of n x m. Use it where links are slow and layers are wide; rank 1 to 4.
    State: Q (alike on all trainers) and what was left out; on another number of trainers the latter is added up and shared.

    Source: Vogels, Karimireddy, Jaggi, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization", 2019.
    """

    name = "powersgd"
    fields = (Field("rank", int, 1, "columns of P and Q", low=1, high=1024),)

    rank: int

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._q: dict[str, Any] = {}  # parameter -> float32[m, rank]

    def wrap_optimizer(self, optimizer: Any, trainer: Trainer) -> Any:
        """Refuse a rank at which no matrix of the model becomes smaller."""
        shapes = {name: tuple(p.shape) for name, p in trainer.parameters}
        if trainer.world_size > 1 and not any(self._shrinks(shape) for shape in shapes.values()):
            largest = max(shapes.items(), key=lambda pair: min(_matrix(pair[1])), default=("none", ()))
            what = f"powersgd.rank {self.rank} makes no matrix of the model smaller: the widest is {largest[0]} {list(largest[1])}"
            raise ConfigError(what, at="strategy.powersgd.rank", fix="take a smaller rank, or another codec")
        return optimizer

    def reduce(self, parts: list[Part], wire: Wire) -> None:
        """Sum P and all that stays whole; then Q."""
        import numpy as np

        thin = [part for part in parts if self._shrinks(part.shape)]
        whole = [part for part in parts if not self._shrinks(part.shape)]
        matrices = []
        for part in thin:
            if part.name in self.lost:
                part.values += self.lost[part.name]
            matrices.append(part.values.reshape(_matrix(part.shape)))
            if part.name not in self._q:
                self._q[part.name] = _drawn(part.name, matrices[-1].shape[1], self.rank)
        sums = _summed(wire, [m @ self._q[p.name] for m, p in zip(matrices, thin, strict=True)] + [p.values for p in whole])
        bases = [np.linalg.qr(p)[0] for p in sums[: len(thin)]]
        mine = [m.T @ base for m, base in zip(matrices, bases, strict=True)]
        for part, matrix, base, q in zip(thin, matrices, bases, mine, strict=True):
            lost = (matrix - base @ q.T).reshape(-1)
            self.lost[part.name] = lost if np.isfinite(lost).all() else np.zeros_like(lost)
        for part, base, q in zip(thin, bases, _summed(wire, mine), strict=True):
            self._q[part.name] = q if np.isfinite(q).all() else _drawn(part.name, q.shape[0], self.rank)
            np.copyto(part.values, (base @ q.T).reshape(-1))
        for part, values in zip(whole, sums[len(thin) :], strict=True):
            np.copyto(part.values, values)

    def state(self, trainer: Trainer) -> State:
        """Return Q and what was left out."""
        return {**super().state(trainer), **{f"q/{name}": q.copy() for name, q in self._q.items()}}

    def load(self, states: Sequence[State], trainer: Trainer) -> None:
        """Take up both."""
        super().load(states, trainer)
        self._q = {key[2:]: value.copy() for key, value in states[0].items() if key.startswith("q/")}

    def _shrinks(self, shape: tuple[int, ...]) -> bool:
        n, m = _matrix(shape)
        return self.rank <= min(n, m) and self.rank * (n + m) < n * m


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape as that of a matrix; of a vector, one of a column."""
    size = 1
    for length in shape[1:]:
        size *= length
    return (shape[0] if shape else 1), size


def _drawn(name: str, rows: int, columns: int) -> Any:
    import numpy as np

    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal((rows, columns), np.float32)


def _summed(wire: Wire, arrays: list[Any]) -> list[Any]:
    """Return the sums over all trainers of several arrays, sent as one."""
    import numpy as np

    if not arrays:
        return []
    total = wire.sum(np.concatenate([a.reshape(-1) for a in arrays]))
    ends = np.cumsum([a.size for a in arrays])
    return [part.reshape(a.shape) for part, a in zip(np.split(total, ends[:-1]), arrays, strict=True)]
