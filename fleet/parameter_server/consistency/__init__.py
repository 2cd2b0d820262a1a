"""The consistencies of parameter-server training: what a pull may miss, and what is waited for. One file each.

Each is a class with NAME and ``push, wait, ended, lost, back, restart``; a server holds one, chosen by the first trainer.
``docs/consistency.md`` draws them side by side.
"""

from __future__ import annotations

from typing import Protocol

from fleet.errors import ConfigError
from fleet.parameter_server.consistency.async_ import Async
from fleet.parameter_server.consistency.bounded import Bounded
from fleet.parameter_server.consistency.geo import Geo
from fleet.parameter_server.consistency.half_async import HalfAsync
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.consistency.sync import Sync
from fleet.parameter_server.tables import Gradient, Tables

_ON_ARRIVAL: dict[str, type[Async]] = {kind.NAME: kind for kind in (HalfAsync, Async, Geo)}
NAMES = (Sync.NAME, *_ON_ARRIVAL, Bounded.NAME)


class Consistency(Protocol):
    """What a server asks of a consistency."""

    largest_staleness: int | None  # in steps, that a pull was answered with; None where nobody counts

    @property
    def step(self) -> int: ...
    def push(self, trainer: int, step: int, gradients: list[Gradient]) -> None: ...
    def wait(self, trainer: int, step: int) -> None: ...
    def ended(self, trainer: int) -> None: ...
    def lost(self, trainer: int, why: str) -> None: ...
    def back(self, trainer: int) -> None: ...
    def restart(self, step: int) -> None: ...


def make(mode: Mode, tables: Tables, timeout_s: float) -> Consistency:
    """Return the consistency that a trainer asks for (``parameter_server`` of the strategy).

    Raises:
        ConfigError: there is none of this name, or a number of it makes no sense.
    """
    if mode.name not in NAMES or mode.staleness < 0 or not 0 < timeout_s < float("inf"):
        raise ConfigError(
            f"no consistency {mode.name!r} with a staleness of {mode.staleness} and a timeout of {timeout_s} s",
            at=f"server {tables.server}",
            fix=f"use one of {', '.join(NAMES)}, a staleness >= 0 and a positive number of seconds",
        )
    if mode.in_order:
        return Sync(tables, timeout_s)
    if mode.name == Bounded.NAME:
        return Bounded(tables, timeout_s, mode.staleness)
    return _ON_ARRIVAL[mode.name](tables, timeout_s)
