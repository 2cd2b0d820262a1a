"""Which row optimizer obeys the script's own optimizer, or why none does."""

from __future__ import annotations

from typing import Any

from fleet.errors import ConfigError

# Paddle's class -> the row optimizer that computes the same on touched rows.
_SAME = {"SGD": "sgd", "Adagrad": "adagrad", "Adam": "adam"}
LAZY = frozenset({"adam"})  # equal to Paddle only with lazy_mode=True: untouched rows do not move; the banner says so


def of(optimizer: Any, wanted: str | None) -> tuple[str, tuple[tuple[str, float], ...]]:
    """Return (name, constants) of the row optimizer for a Paddle optimizer.

    Args:
        wanted: ``parameter_server.row_optimizer`` of the strategy, or None for the script's own.

    Raises:
        ConfigError: the optimizer, or something that it was told to do, has no row form here.
    """
    kind = type(optimizer).__name__
    _refuse_unsupported(optimizer, kind)
    own = _SAME.get(kind)
    name = wanted or own
    if name is None:
        raise ConfigError(
            f"table rows cannot follow {kind}",
            at="distributed_optimizer",
            fix="use SGD, Adagrad or Adam(lazy_mode=True), or set parameter_server.row_optimizer",
        )
    if name == "sgd":
        return name, ()
    if name in ("adagrad", "rowwise_adagrad"):
        if own == "adagrad":
            return name, (
                ("epsilon", float(optimizer._epsilon)),
                ("initial_accumulator_value", float(optimizer.initial_accumulator_value)),
            )
        return name, ()
    if own != "adam":
        return name, ()
    betas = {"beta1": optimizer._beta1, "beta2": optimizer._beta2, "epsilon": optimizer._epsilon}
    try:
        return name, tuple(sorted((k, float(v)) for k, v in betas.items()))
    except TypeError:
        raise ConfigError(
            "Adam's betas must be numbers for table rows", at="distributed_optimizer", fix="give them as floats"
        ) from None


def _refuse_unsupported(optimizer: Any, kind: str) -> None:
    at = f"distributed_optimizer({kind})"
    if getattr(optimizer, "_grad_clip", None) is not None:
        fix = "leave grad_clip unset, or train without a parameter server"
        raise ConfigError("clipping gradients of table rows is not in this version of fleet", at=at, fix=fix)
    if getattr(optimizer, "regularization", None) is not None or kind == "AdamW":
        fix = "leave weight_decay unset, or train without a parameter server"
        raise ConfigError("weight decay of table rows is not in this version of fleet", at=at, fix=fix)
    if getattr(optimizer, "_amsgrad", False):
        raise ConfigError("amsgrad is not in this version of fleet for table rows", at=at, fix="leave amsgrad unset")
    if optimizer._parameter_list and isinstance(optimizer._parameter_list[0], dict):
        fix = "give one list of parameters"
        raise ConfigError("parameter groups with a parameter server are not in this version of fleet", at=at, fix=fix)
