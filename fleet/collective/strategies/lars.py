"""``lars``: a learning rate for each layer, by the ratio of its weight's norm to its gradient's."""

from __future__ import annotations

from typing import Any

from fleet.collective.strategies.hooks import Strategy, Trainer
from fleet.config import Field
from fleet.errors import ConfigError


class Lars(Strategy):
    """Take the place of the script's Momentum by Paddle's ``LarsMomentumOptimizer``: same rate, momentum and parameters.

    Bytes a step: none. Use it for convolutional nets with global batches from about 8,000 on, with ``lr_scaling`` and warm-up.

    Source: You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", 2017.
    """

    name = "lars"
    fields = (
        Field("lars_coeff", float, 0.001, "trust coefficient", low=0),
        Field("lars_weight_decay", float, 0.0005, "weight decay", low=0),
        Field("epsilon", float, 0.0, "added to the gradient's norm", low=0),
        Field("exclude_from_weight_decay", list, (), "parts of names (in the model) of parameters that do not decay"),
    )
    conflicts = {"lamb": "each brings its own optimizer"}

    lars_coeff: float
    lars_weight_decay: float
    epsilon: float
    exclude_from_weight_decay: tuple[str, ...]

    def wrap_optimizer(self, optimizer: Any, trainer: Trainer) -> Any:
        """Return the LARS optimizer."""
        import paddle
        from paddle.incubate.optimizer import LarsMomentumOptimizer

        check_script(self.name, optimizer, paddle.optimizer.Momentum)
        if optimizer._use_nesterov:
            fix = "leave use_nesterov away"
            raise ConfigError("lars has no Nesterov momentum, which the optimizer asks for", at="strategy.lars", fix=fix)
        return LarsMomentumOptimizer(
            optimizer._learning_rate,
            optimizer._momentum,
            lars_coeff=self.lars_coeff,
            lars_weight_decay=self.lars_weight_decay,
            parameter_list=optimizer._parameter_list,
            grad_clip=optimizer._grad_clip,
            exclude_from_weight_decay=excluded(trainer, self.exclude_from_weight_decay, "lars"),
            epsilon=self.epsilon,
        )


def check_script(name: str, optimizer: Any, kind: Any) -> None:
    """Refuse a script's optimizer whose settings could not be taken over."""
    at = f"strategy.{name}"
    if type(optimizer) is not kind:
        what = f"{name} takes the place of paddle.optimizer.{kind.__name__}, and the script has {type(optimizer).__name__}"
        raise ConfigError(what, at=at, fix=f"use paddle.optimizer.{kind.__name__}, or leave {name} away")
    if optimizer._parameter_list and isinstance(optimizer._parameter_list[0], dict):
        raise ConfigError(f"{name} knows no groups of parameters", at=at, fix="give the optimizer a list of parameters")
    # Momentum hands L2 decay to its kernel; every other form is the base class's.
    if getattr(optimizer, "regularization", None) is not None or bool(getattr(optimizer, "_regularization_coeff", None)):
        what = f"{name} has its own weight decay, and the optimizer has one too"
        raise ConfigError(what, at=at, fix=f"leave weight_decay of the optimizer away; set {name}_weight_decay")


def excluded(trainer: Trainer, parts: tuple[str, ...], name: str) -> list[str]:
    """Return Paddle's names of the parameters whose names contain one of ``parts``; each must match something."""
    found = []
    for part in parts:
        matches = [p.name for n, p in trainer.parameters if part in n or part in p.name]
        if not matches:
            names = ", ".join(n for n, _ in trainer.parameters[:6])
            at = f"strategy.{name}.exclude_from_weight_decay"
            raise ConfigError(f"no parameter's name contains {part!r}", at=at, fix=f"names are like {names}")
        found += matches
    return found
