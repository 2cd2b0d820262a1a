"""``adaptive_localsgd``: local steps between averages, fewer of them as the loss falls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fleet.collective.strategies.hooks import State, Trainer
from fleet.collective.strategies.localsgd import LocalSgd
from fleet.config import Field

MOST_STEPS = 16  # between two averages, as in Paddle's optimizer


class AdaptiveLocalSgd(LocalSgd):
    """Go on as ``localsgd``, and choose the steps until the next average anew at each one:

    k = ceil(sqrt(first rate x loss / (rate x first loss) x ``init_k_steps``)), from 1 to 16. ``first`` is of step 1; ``loss`` is
    that whose backward came last, the mean over the trainers by their samples (with a GradScaler's factor, if it has one). Where
    the first loss is not above 0, or the loss no number, k stays as it is. The rate is what ``get_lr()`` says.

    Bytes a step: 4 a float up to step ``begin_step``, then 4 / k. Use it where a fixed ``k_steps`` is fast at first and ends too
    high.
    State: as ``localsgd``, and what k is computed of.

    Source: Wang, Joshi, "Adaptive Communication Strategies to Achieve the Best Error-Runtime Trade-off in Local-Update SGD", MLSys
    2019; the rule is that of Paddle's ``AdaptiveLocalSGDOptimizer``.
    """

    name = "adaptive_localsgd"
    fields = (
        Field("init_k_steps", int, 1, "steps until the first average, and the scale of later ones", low=1, high=MOST_STEPS),
        Field("begin_step", int, 1, "the last step whose gradients meet", low=1),
    )
    conflicts = {
        **LocalSgd.conflicts,
        "localsgd": "both say when parameters are averaged",
        "post_localsgd": "both say when parameters are averaged",
        "dgc": "dgc keeps the momentum of the script's Momentum itself, and local steps send no gradients",
        "onebit": "local steps send no gradients, and the momentum that travels would stay behind",
        "sharding": "local steps update every parameter on every trainer",
        "sync_batch_norm": "a local step does not wait for the others, and batch norm over all would",
        "verify": "between two averages each trainer's parameters are its own",
    }

    init_k_steps: int

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.k_steps = self.init_k_steps
        self._first_loss, self._first_rate = math.nan, math.nan

    def after_step(self, trainer: Trainer) -> None:
        """Average when it is time, and choose the next time."""
        if trainer.world_size > 1 and trainer.step == 1:
            self._first_loss, self._first_rate = _mean_loss(trainer), float(trainer.optimizer.get_lr())
        super().after_step(trainer)
        if trainer.world_size > 1 and trainer.step > self.begin_step and self._apart == 0:
            loss, rate = _mean_loss(trainer), float(trainer.optimizer.get_lr())
            self.k_steps = self._chosen(loss, rate)

    def state(self, trainer: Trainer) -> State:
        """Return what is this trainer's own, and what k is computed of."""
        return {**super().state(trainer), "k": self.k_steps, "first_loss": self._first_loss, "first_rate": self._first_rate}

    def load(self, states: Sequence[State], trainer: Trainer) -> None:
        """Take them up."""
        super().load(states, trainer)
        self.k_steps = int(states[0]["k"])
        self._first_loss, self._first_rate = float(states[0]["first_loss"]), float(states[0]["first_rate"])

    def _chosen(self, loss: float, rate: float) -> int:
        if not (self._first_loss > 0 and self._first_rate > 0 and rate > 0 and math.isfinite(loss)):
            return self.k_steps
        wanted = self._first_rate * max(loss, 0.0) / (rate * self._first_loss) * self.init_k_steps
        return max(1, min(MOST_STEPS, math.ceil(math.sqrt(wanted)))) if math.isfinite(wanted) else self.k_steps


def _mean_loss(trainer: Trainer) -> float:
    """Return the last backward's loss, each trainer's weighed by its part of the batch."""
    import numpy as np

    mine = float(trainer.loss.astype("float32").mean()) * trainer.weight if trainer.weight else 0.0
    return float(trainer.wire.sum(np.array([mine], np.float32))[0])
