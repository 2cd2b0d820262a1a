"""``lr_scaling``: a learning rate that grows with the number of trainers."""

from __future__ import annotations

from typing import Any

from fleet.collective.strategies.hooks import Strategy, Trainer
from fleet.config import Field


class LrScaling(Strategy):
    """Multiply the learning rate of every step by the number of trainers (linear) or by its root (sqrt).

    For a job whose global batch grows with its trainers (``batch="per_trainer"``). Over the first ``warmup_steps`` steps the
    factor grows evenly from 1. The script's own schedule goes on underneath: ``get_lr()`` says its rate. Bytes a step: none.

    Source: Goyal et al., "Accurate, Large Minibatch SGD", 2017 (linear, warm-up); Krizhevsky, "One weird trick", 2014 (sqrt).
    """

    name = "lr_scaling"
    fields = (
        Field("rule", str, "linear", "how the rate grows with the trainers", choices=("linear", "sqrt")),
        Field("warmup_steps", int, 0, "steps until the whole factor is reached", low=0),
    )
    conflicts = {"parameter_server": "rows are updated on servers, at the script's own rate"}

    rule: str
    warmup_steps: int

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._rate = 0.0

    def on_update(self, trainer: Trainer) -> None:
        """Set the rate of this step."""
        whole = float(trainer.world_size) if self.rule == "linear" else trainer.world_size**0.5
        done = min(1.0, (trainer.step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        self._rate = float(trainer.optimizer.get_lr())
        _set(trainer.optimizer, self._rate * (1 + (whole - 1) * done))

    def after_update(self, trainer: Trainer) -> None:
        """Give the script its rate back."""
        _set(trainer.optimizer, self._rate)


def _set(optimizer: Any, rate: float) -> None:
    schedule = optimizer._learning_rate
    if isinstance(schedule, float):
        optimizer.set_lr(rate)
    else:
        schedule.last_lr = rate  # what a schedule answers until its next step
