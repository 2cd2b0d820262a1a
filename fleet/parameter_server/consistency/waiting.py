"""How trainers wait for each other on a server: with a time limit, and never for one that is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fleet.errors import FleetError, PeerLost


class Waiting:
    """A condition that changes when trainers push, die or come back.

    Args:
        server: index of this server, for messages.
        timeout_s: how long one wait may take.
    """

    def __init__(self, server: int, timeout_s: float) -> None:
        self._server, self._timeout_s = server, timeout_s
        self.changed = threading.Condition()  # an RLock; guards everything below and the state of whoever owns this
        self.gone: dict[int, str] = {}  # trainer -> why nobody should wait for it
        self.failure: FleetError | None = None  # once set, every wait ends with it

    def until(self, missing: Callable[[], list[int]], step: Callable[[], int]) -> None:
        """Return once ``missing()``, the trainers whose push of ``step()`` is waited for, is empty.

        Raises:
            PeerLost: one of them died, or did not push within the time; it is named.
        """
        deadline = time.monotonic() + self._timeout_s
        with self.changed:
            while absent := missing():
                self.raise_failure()
                gone = [self.gone[trainer] for trainer in absent if trainer in self.gone]
                if gone:
                    raise self._absent("; ".join(gone), step())
                left = deadline - time.monotonic()
                if left <= 0:
                    names = ", ".join(f"trainer {r}" for r in absent)
                    raise self._absent(f"{names} did not push step {step()} within {self._timeout_s:.0f} s", step())
                self.changed.wait(left)
            self.raise_failure()

    def lose(self, trainer: int, why: str) -> None:
        """Let the others stop waiting for a trainer that is gone."""
        with self.changed:
            self.gone[trainer] = why
            self.changed.notify_all()

    def welcome(self, trainer: int) -> None:
        """Wait for a trainer again."""
        with self.changed:
            self.gone.pop(trainer, None)

    def fail(self, error: FleetError) -> None:
        """End every wait, now and later, with the first error given."""
        with self.changed:
            self.failure = self.failure or error
            self.changed.notify_all()

    def raise_failure(self) -> None:
        """Raise what :meth:`fail` was told."""
        if self.failure is not None:
            raise self.failure

    def _absent(self, why: str, step: int) -> PeerLost:
        return PeerLost(
            f"step {step} cannot be completed: {why}",
            at=f"server {self._server}",
            fix="look at that trainer's log; every trainer has to call optimizer.step() equally often",
        )
