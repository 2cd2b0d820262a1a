"""``ema``: a moving average of the parameters beside them, for evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from fleet.collective.strategies.hooks import State, Strategy, Trainer
from fleet.config import Field


class Ema(Strategy):
    """Follow the parameters after every step: average = decay x average + (1 - decay) x parameter, from their first values on.

    ``with fleet.ema_weights():`` puts the averages in the parameters' place, to evaluate or to save. Under ``localsgd`` each
    trainer follows its own, and the average of a step in which parameters are averaged follows the mean.

    Bytes a step: none; a copy of the parameters in memory. Use it where evaluation jumps about from step to step.
    State: the averages; on another number of trainers trainer 0's.

    Source: Polyak, Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; Tarvainen, Valpola, NeurIPS 2017.
    """

    name = "ema"
    fields = (Field("decay", float, 0.999, "weight of the past", low=0, below=1.0),)
    conflicts = {"parameter_server": "the rows on servers would have no average"}
    per_trainer = True

    decay: float

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.averages: dict[str, Any] = {}  # name -> paddle.Tensor

    def on_update(self, trainer: Trainer) -> None:
        """Begin with what the parameters are before their first step."""
        for name, parameter in trainer.parameters:
            if name not in self.averages and not parameter.stop_gradient:
                self.averages[name] = parameter.detach().clone()

    def after_step(self, trainer: Trainer) -> None:
        """Follow."""
        import paddle

        with paddle.no_grad():
            for name, parameter in trainer.parameters:
                if not parameter.stop_gradient and name in self.averages:
                    self.averages[name].scale_(self.decay).add_(parameter.detach() * (1 - self.decay))

    @contextlib.contextmanager
    def applied(self, trainer: Trainer) -> Iterator[None]:
        """Put the averages in the parameters' place for as long as the block lasts."""
        # A batch norm's running mean is a frozen parameter to Paddle: what is not learned stays as it is.
        followed = [(name, p) for name, p in trainer.parameters if name in self.averages and not p.stop_gradient]
        held = {name: p.detach().clone() for name, p in followed}
        try:
            for name, parameter in followed:
                parameter.set_value(self.averages[name])
            yield
        finally:
            for name, parameter in followed:
                parameter.set_value(held[name])

    def state(self, trainer: Trainer) -> State:
        """Return the averages."""
        return {name: value.numpy().copy() for name, value in self.averages.items()}

    def load(self, states: Sequence[State], trainer: Trainer) -> None:
        """Take them up."""
        import paddle

        mine = states[trainer.rank if len(states) == trainer.world_size else 0]
        self.averages = {name: paddle.to_tensor(value) for name, value in mine.items()}
