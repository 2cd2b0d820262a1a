"""Which row optimizer obeys the script's own optimizer, or why none does.

``docs/row_optimizer.md`` says what each computes, and how one is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fleet.errors import ConfigError
from fleet.parameter_server.spec import OPTIMIZERS

Constants = dict[str, float]

# If these ran over the whole weight, rows without a gradient would move too, or their state would; here they stay as they are.
# (Those of the others do not move in Paddle either.)
_LAZY = frozenset({"momentum", "decayed_adagrad", "rmsprop", "rmsprop_centered", "adam", "adamw"})

# Paddle's class -> the row optimizer that computes the same on touched rows, and where its constants are.
_SAME: dict[str, tuple[str, Callable[[Any], Constants]]] = {
    "SGD": ("sgd", lambda o: {}),
    "Momentum": ("momentum", lambda o: {"momentum": o._momentum, "nesterov": o._use_nesterov}),
    "Adagrad": ("adagrad", lambda o: {"epsilon": o._epsilon, "initial_accumulator_value": o.initial_accumulator_value}),
    "RMSProp": ("rmsprop", lambda o: {"rho": o._rho, "epsilon": o._epsilon, "momentum": o._momentum}),
    "Adam": ("adam", lambda o: {"beta1": o._beta1, "beta2": o._beta2, "epsilon": o._epsilon}),
    "AdamW": ("adamw", lambda o: {"beta1": o._beta1, "beta2": o._beta2, "epsilon": o._epsilon, "weight_decay": _decoupled(o)}),
}
_NO_ROW_FORM = {
    "Lamb": "its trust ratio needs the norm of the whole weight, which no server has",
    "LBFGS": "it evaluates the whole model several times a step",
}


class WeightAttributes(NamedTuple):
    """What an nn.Embedding's ``weight_attr`` says to the optimizer."""

    name: str
    learning_rate: float = 1.0  # times the optimizer's
    regularizer: Any = None  # in place of the optimizer's
    need_clip: bool = True

    @classmethod
    def of(cls, weight: Any) -> WeightAttributes:
        """Read them from a parameter."""
        rate = float(getattr(weight, "optimize_attr", {}).get("learning_rate", 1.0))
        return cls(weight.name, rate, getattr(weight, "regularizer", None), bool(getattr(weight, "need_clip", True)))


def is_lazy(name: str, constants: tuple[tuple[str, float], ...]) -> bool:
    """Return whether rows that a batch does not touch would move in one process; the banner says that they do not."""
    return name in _LAZY or dict(constants).get("l2_decay", 0.0) != 0.0


def of(
    optimizer: Any,
    wanted: str | Mapping[str, Any] | None,
    weight: WeightAttributes | None = None,
    *,
    dense: bool = False,
) -> tuple[str, tuple[tuple[str, float], ...]]:
    """Return (name, constants) of the row optimizer for a Paddle optimizer.

    Args:
        wanted: ``parameter_server.row_optimizer`` of the strategy, or None for the script's own.
        weight: of the table; None takes the optimizer's own regularizer and clipping.
        dense: the rows are blocks of dense parameters, all touched in every step: equal Paddle's dense kernels.

    Raises:
        ConfigError: the optimizer, or something that it was told to do, has no row form here.
    """
    kind = type(optimizer).__name__
    at = f"distributed_optimizer({kind})"
    _refuse_unsupported(optimizer, at)
    own, read = _SAME.get(kind, (None, dict))
    if own == "rmsprop" and optimizer._centered:
        own = "rmsprop_centered"
    given = {"name": wanted} if isinstance(wanted, str) else dict(wanted or {})
    name = given.pop("name", own)
    if name is None:
        why = _NO_ROW_FORM.get(kind, "it has no row form here")
        fix = f"use {', '.join(_SAME)}, or set parameter_server.row_optimizer to one of {', '.join(OPTIMIZERS)}"
        raise ConfigError(f"table rows cannot follow {kind}: {why}", at=at, fix=fix)
    constants: Constants = {}
    if name == own:
        constants.update(_numbers(read(optimizer), at))
    elif own == "adamw" and _decoupled(optimizer) != 0 and _decays(optimizer, weight):
        fix = "set weight_decay=0.0, exempt the table by apply_decay_param_fun, or leave parameter_server.row_optimizer unset"
        raise ConfigError(f"AdamW's decoupled weight decay has no place in the row optimizer {name}", at=at, fix=fix)
    constants.update(_numbers(given, "parameter_server.row_optimizer"))
    if name == "adamw" and own == "adamw" and "weight_decay" not in given and not _decays(optimizer, weight):
        constants["weight_decay"] = 0.0
    if name == "adam" and dense:
        constants["dense"] = 1.0
    constants.update(_decay(optimizer, weight, at))
    constants.update(_clipping(optimizer, weight, at))
    return name, tuple(sorted(constants.items()))


def _decoupled(optimizer: Any) -> Any:
    return getattr(optimizer, "_weight_decay", getattr(optimizer, "_coeff", 0.0))


def _decays(optimizer: Any, weight: WeightAttributes | None) -> bool:
    """Return whether AdamW's decay is meant for this weight."""
    chosen = getattr(optimizer, "_apply_decay_param_fun", None)
    return chosen is None or weight is None or bool(chosen(weight.name))


def _numbers(values: Mapping[str, Any], at: str) -> Constants:
    try:
        return {name: float(value) for name, value in values.items()}
    except TypeError:
        raise ConfigError("an optimizer's constants must be numbers for table rows", at=at, fix="give them as floats") from None


def _decay(optimizer: Any, weight: WeightAttributes | None, at: str) -> Constants:
    """Return what L2 decay adds to the gradients of touched rows: ``l2_decay * weight``."""
    if weight is not None and weight.regularizer is not None:
        regularizer = weight.regularizer
    elif getattr(optimizer, "_regularization_method", "") == "l2_decay":  # Momentum keeps it apart
        return {"l2_decay": float(optimizer._regularization_coeff)} if optimizer._regularization_coeff else {}
    else:
        regularizer = optimizer.regularization
    if regularizer is None:
        return {}
    kind = type(regularizer).__name__
    if kind not in ("L2Decay", "L2DecayRegularizer"):
        fix = "use L2Decay, or leave weight_decay unset"
        raise ConfigError(f"table rows know L2Decay, not {kind}", at=at, fix=fix)
    strength = float(getattr(regularizer, "_coeff", getattr(regularizer, "_regularization_coeff", 0.0)))
    return {"l2_decay": strength} if strength else {}


def _clipping(optimizer: Any, weight: WeightAttributes | None, at: str) -> Constants:
    clip = getattr(optimizer, "_grad_clip", None)
    if clip is None or (weight is not None and not weight.need_clip):
        return {}
    kind = type(clip).__name__
    if kind != "ClipGradByValue":
        fix = "use paddle.nn.ClipGradByValue, leave grad_clip unset, or train without a parameter server"
        raise ConfigError(
            f"{kind} needs the norm of the whole gradient, of which each server has its rows only",
            at=at,
            fix=fix,
        )
    return {"clip_min": float(clip.min), "clip_max": float(clip.max)}


def _refuse_unsupported(optimizer: Any, at: str) -> None:
    refused = {
        "amsgrad": bool(getattr(optimizer, "_amsgrad", False)),
        "lr_ratio": getattr(optimizer, "_lr_ratio", None) is not None,
        "rescale_grad": getattr(optimizer, "_rescale_grad", 1.0) != 1.0,
        "use_lowprecision_moment": bool(getattr(optimizer, "_use_lowprecision_moment", False)),
    }
    for name, present in refused.items():
        if present:
            raise ConfigError(f"{name} is not in this version of fleet for table rows", at=at, fix=f"leave {name} unset")
    if optimizer._parameter_list and isinstance(optimizer._parameter_list[0], dict):
        fix = "give one list of parameters"
        raise ConfigError("parameter groups with a parameter server are not in this version of fleet", at=at, fix=fix)
