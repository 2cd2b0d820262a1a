"""How the servers move dense parameters: exactly what the script's own optimizer says, or why they cannot."""

from __future__ import annotations

from typing import Any, NamedTuple

from fleet.errors import ConfigError
from fleet.parameter_server import row_optimizer

SAME = ("SGD", "Momentum", "Adagrad", "Adam", "AdamW")  # Paddle's dense kernels that the servers equal
AT = 'parameter_server.dense="server"'


class Kind(NamedTuple):
    """What the parameters of one table have in common."""

    optimizer: str  # a row optimizer
    hyper: tuple[tuple[str, float], ...]
    rate: float  # times the optimizer's learning rate


def kinds(optimizer: Any, named: list[tuple[str, Any]]) -> list[tuple[Kind, list[tuple[str, Any]]]]:
    """Return the kinds of these parameters, each with its own.

    Raises:
        ConfigError: the optimizer is none that the servers have, or does something that they do not.
    """
    name = type(optimizer).__name__
    if named and name not in SAME:
        fix = f'use {", ".join(SAME)}; consistency "sync" and "async" with dense="allreduce" take any'
        raise ConfigError(f"the servers cannot move dense parameters by {name}", at=AT, fix=fix)
    found: dict[Kind, list[tuple[str, Any]]] = {}
    for path, parameter in named:
        _refuse(path, parameter)
        weight = row_optimizer.WeightAttributes.of(parameter)
        kind = Kind(*row_optimizer.of(optimizer, None, weight, dense=True), weight.learning_rate)
        found.setdefault(kind, []).append((path, parameter))
    return list(found.items())


def _refuse(name: str, parameter: Any) -> None:
    dtype = str(parameter.dtype).rpartition(".")[2]
    if dtype != "float32":
        fix = "keep trained parameters in float32"
        raise ConfigError(f"dense parameters on servers are float32, {name!r} is {dtype}", at=AT, fix=fix)
    if not parameter.place.is_cpu_place():
        fix = 'train on CPUs, or take dense="allreduce"'
        what = f"dense parameters on servers belong to trainers on CPUs, {name!r} is on {parameter.place}"
        raise ConfigError(what, at=AT, fix=fix)
