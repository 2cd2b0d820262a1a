"""``async``: a push is applied when it arrives; a pull reads what is there.

What a pull may miss: the pushes still on their way, other trainers' and, with prefetch=1, this trainer's last one.
What is waited for: nothing (with dense="allreduce" the dense parameters still meet every step). (``async`` is a keyword,
hence the file's name.)
"""

from __future__ import annotations

from fleet.parameter_server.tables import Gradient, Tables


class Async:
    """The server's side. All methods may be called by several connection threads at once."""

    NAME = "async"

    def __init__(self, tables: Tables, timeout_s: float) -> None:
        self._tables = tables
        self.step = 0  # the furthest trainer's
        self.largest_staleness: int | None = None  # nobody counts it

    def push(self, trainer: int, step: int, gradients: list[Gradient]) -> None:
        """Check all gradients of a push, then apply them."""
        self._tables.apply_all(trainer, step, gradients)
        self.step = max(self.step, step)

    def wait(self, trainer: int, step: int) -> None:
        """Return at once."""

    def ended(self, trainer: int) -> None:
        """Nobody waits for anybody here."""

    def lost(self, trainer: int, why: str) -> None:
        """Nobody waits for anybody here."""

    def back(self, trainer: int) -> None:
        """Nobody waited for it."""

    def restart(self, step: int) -> None:
        """Go on at ``step`` after a snapshot was loaded."""
        self.step = step
