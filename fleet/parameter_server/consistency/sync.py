"""``sync``: a step is applied once every trainer has pushed it; a pull waits for the steps before it.

What a pull may miss: nothing. What is waited for: the slowest trainer, every step. The gradients of all trainers are
summed in rank order, so that a run is reproducible to the bit whatever the order of arrival.
"""

from __future__ import annotations

from fleet.errors import FleetError, TableError
from fleet.parameter_server.consistency.waiting import Waiting
from fleet.parameter_server.tables import Gradient, Tables

MAX_STEPS_AHEAD = 1024  # gradients of a trainer that pushes without ever pulling; bounds what is kept for the others


class Sync:
    """The server's side. All methods may be called by several connection threads at once."""

    NAME = "sync"

    def __init__(self, tables: Tables, timeout_s: float) -> None:
        self._tables = tables
        self._waiting = Waiting(tables.server, timeout_s)  # guards everything below
        self.step = 0  # steps applied
        self.largest_staleness: int | None = 0
        self._pushed: dict[int, dict[int, list[Gradient]]] = {}  # step -> trainer -> its gradients

    def push(self, trainer: int, step: int, gradients: list[Gradient]) -> None:
        """Take one trainer's gradients of ``step``; the last trainer's thread applies the step."""
        try:
            self._check(trainer, step, gradients)
        except FleetError as error:
            self._waiting.fail(error)  # this step can never be completed: the others learn the cause now, not after the time
            raise
        with self._waiting.changed:
            self._waiting.raise_failure()
            self._pushed.setdefault(step, {})[trainer] = gradients
            while len(self._pushed.get(self.step + 1, ())) == self._tables.world_size:
                try:
                    self._apply(self._pushed.pop(self.step + 1))
                except FleetError as error:
                    self._waiting.fail(error)
                    raise
                self.step += 1
            self._waiting.changed.notify_all()

    def wait(self, trainer: int, step: int) -> None:
        """Return once ``step`` steps are applied.

        Raises:
            PeerLost: a trainer died, or did not push within the time; it is named.
        """
        self._waiting.until(lambda: self._missing(step), lambda: self.step + 1)

    def ended(self, trainer: int) -> None:
        """Let the others stop waiting for a trainer that has said BYE: its next step never comes."""
        self._waiting.lose(trainer, f"trainer {trainer} has ended")

    def lost(self, trainer: int, why: str) -> None:
        """Let the others stop waiting for a trainer that is gone."""
        self._waiting.lose(trainer, why)

    def back(self, trainer: int) -> None:
        """Take a trainer's new connection."""
        self._waiting.welcome(trainer)

    def restart(self, step: int) -> None:
        """Go on at ``step`` after a snapshot was loaded."""
        with self._waiting.changed:
            self.step = step
            self._pushed.clear()

    def _missing(self, step: int) -> list[int]:
        pushed = self._pushed.get(self.step + 1, {})
        return [] if self.step >= step else [r for r in range(self._tables.world_size) if r not in pushed]

    def _check(self, trainer: int, step: int, gradients: list[Gradient]) -> None:
        if not self.step < step <= self.step + MAX_STEPS_AHEAD:
            raise TableError(f"trainer {trainer} pushed step {step}, {self.step} steps are applied",
                             at=f"server {self._tables.server}", fix="push every step once, in order")  # fmt: skip
        for gradient in gradients:
            self._tables.check(gradient, trainer)

    def _apply(self, by_trainer: dict[int, list[Gradient]]) -> None:
        of_table: dict[int, list[Gradient]] = {}
        for trainer in sorted(by_trainer):
            for gradient in by_trainer[trainer]:
                of_table.setdefault(gradient.table, []).append(gradient)
        for table in sorted(of_table):
            parts = of_table[table]
            merged = parts[0] if len(parts) == 1 else self._tables.merged(parts)
            # As Paddle's Adam, which does not count a step in which its parameter had no gradient.
            self._tables.apply(merged, self._tables.steps[table] + 1, "the sum over trainers")
            self._tables.steps[table] += 1
