"""``bounded``: a push is applied when it arrives; a pull waits until the slowest trainer trails by at most ``staleness`` steps.

What a pull may miss: the last ``staleness`` steps of other trainers (some of them or all) and, with prefetch=1, this trainer's
last one. What is waited for: the slowest trainer, once it trails by more. With staleness=0 it is ``sync``, bit for bit.
A trainer that has ended is not waited for.

Every server hears of every step, by an empty push if no row of its is touched: a bound that counted only the steps of which a
server holds rows would let trainers drift apart on the others.

Source: stale synchronous parallel, Ho et al., More Effective Distributed ML via a Stale Synchronous Parallel Parameter
Server, NIPS 2013.
"""

from __future__ import annotations

from fleet.parameter_server.consistency.waiting import Waiting
from fleet.parameter_server.tables import Gradient, Tables


class Bounded:
    """The server's side for a staleness of 1 or more. All methods may be called by several connection threads at once."""

    NAME = "bounded"

    def __init__(self, tables: Tables, timeout_s: float, staleness: int) -> None:
        self._tables, self._staleness = tables, staleness
        self._waiting = Waiting(tables.server, timeout_s)  # guards everything below
        self._steps = [0] * tables.world_size  # pushed by each trainer
        self._ended: set[int] = set()
        self.largest_staleness: int | None = 0  # that a pull was answered with

    @property
    def step(self) -> int:
        """Return the furthest trainer's step."""
        return max(self._steps)

    def push(self, trainer: int, step: int, gradients: list[Gradient]) -> None:
        """Check all gradients of a push, then apply them."""
        self._tables.apply_all(trainer, step, gradients)
        with self._waiting.changed:
            self._steps[trainer] = step
            self._waiting.changed.notify_all()

    def wait(self, trainer: int, step: int) -> None:
        """Return once every other trainer has pushed all but ``staleness`` of ``step`` steps.

        Args:
            step: what this trainer will have pushed when it uses the rows.

        Raises:
            PeerLost: a trainer died, or did not push within the time; it is named.
        """
        need = step - self._staleness
        with self._waiting.changed:
            self._waiting.until(lambda: [r for r in self._others(trainer) if self._steps[r] < need], lambda: need)
            trails = max((step - self._steps[r] for r in self._others(trainer)), default=0)
            self.largest_staleness = max(self.largest_staleness or 0, trails)

    def ended(self, trainer: int) -> None:
        """Stop counting a trainer that has said BYE."""
        with self._waiting.changed:
            self._ended.add(trainer)
            self._waiting.changed.notify_all()

    def lost(self, trainer: int, why: str) -> None:
        """Let the others stop waiting for a trainer that is gone."""
        self._waiting.lose(trainer, why)

    def back(self, trainer: int) -> None:
        """Take a trainer's new connection."""
        with self._waiting.changed:
            self._ended.discard(trainer)
            self._waiting.welcome(trainer)

    def restart(self, step: int) -> None:
        """Go on at ``step`` after a snapshot was loaded."""
        with self._waiting.changed:
            self._steps = [step] * self._tables.world_size
            self._waiting.changed.notify_all()

    def _others(self, trainer: int) -> list[int]:
        return [r for r in range(self._tables.world_size) if r != trainer and r not in self._ended]
