"""The consistencies of parameter-server training: what a pull may miss, and what is waited for. One file each.

Each is a class with NAME and ``push, wait, lost, back, restart``; a server holds one, chosen by the first trainer.
"""

from __future__ import annotations

from typing import Protocol

from fleet.errors import ConfigError
from fleet.parameter_server.consistency.async_ import Async
from fleet.parameter_server.consistency.sync import Sync
from fleet.parameter_server.tables import Gradient, Tables


class Consistency(Protocol):
    """What a server asks of a consistency."""

    step: int

    def push(self, trainer: int, step: int, gradients: list[Gradient]) -> None: ...
    def wait(self, step: int) -> None: ...
    def lost(self, trainer: int, why: str) -> None: ...
    def back(self, trainer: int) -> None: ...
    def restart(self, step: int) -> None: ...


def make(name: str, tables: Tables, timeout_s: float) -> Consistency:
    """Return the consistency of this name (``parameter_server.consistency`` of the strategy).

    Raises:
        ConfigError: there is none of this name, or the time is no positive number of seconds.
    """
    kinds: dict[str, type[Sync] | type[Async]] = {Sync.NAME: Sync, Async.NAME: Async}
    if name not in kinds or not 0 < timeout_s < float("inf"):
        raise ConfigError(
            f"no consistency {name!r} with a timeout of {timeout_s} s",
            at=f"server {tables.server}",
            fix=f"use one of {', '.join(kinds)} and a positive number of seconds",
        )
    return kinds[name](tables, timeout_s)
