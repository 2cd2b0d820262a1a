"""Where a trainer stands in its data, noted at every step, so that it alone can be started again there.

Its parameters are on the servers then (``dense="server"``), so its position is all that dies with it. A place is noted *before*
a step's gradients go out and when the loop comes back to the loader. So no batch is pushed twice, and the one in hand at a
death may be lost; a learning rate's schedule may be one step behind.

The other trainers meet it where they met its earlier life. So a place is good only until the next call of all trainers
(Runtime.meet says so), and a loop that makes such calls at every step has no good place at all.
"""

from __future__ import annotations

import os
from typing import Any

from fleet.recovery import Recovery
from fleet.runtime import Runtime


class Track:
    """One trainer's track.

    Args:
        model, optimizer, loader: as Checkpointer has them.
    """

    def __init__(self, runtime: Runtime, recovery: Recovery, model: Any, optimizer: Any, loader: Any) -> None:
        self._runtime, self._recovery = runtime, recovery
        self._loader = loader
        inner = getattr(optimizer, "inner", optimizer)
        rate = getattr(inner, "_learning_rate", None)
        self._schedule = rate if hasattr(rate, "set_state_dict") else None
        stateless = loader is not None and not model.buffers()
        self._alone = stateless and getattr(runtime.tables, "dense", None) is not None
        self._calls: dict[str, int] = {}  # as they were when a step began
        self._at: tuple[int, int, int] = (0, 0, -1)  # step, epoch, step of the last checkpoint

    def begin(self, step: int, epoch: int) -> None:
        """Say whether a trainer can be started again alone, and begin to note."""
        if self._alone:
            self._recovery.plan(trainers_alone=True)
            self._runtime.before_push.append(self._before_push)
        self.note(step, epoch, step)

    def note(self, step: int, epoch: int, saved: int | None = None) -> None:
        """Note the place between two steps; ``saved`` is the step of a checkpoint that was just written."""
        self._at = (step, epoch, self._at[2] if saved is None else saved)
        if saved is not None:
            self._calls = dict(self._runtime.calls)
        self._write(0)

    def take_up(self) -> dict[str, Any]:
        """Go on where the earlier life stood; return its ``step``, ``epoch``, and ``saved``: step of the last checkpoint."""
        runtime, place = self._runtime, self._recovery.place.data
        assert place is not None, "the launcher starts a trainer alone only where there is a place"
        self._loader.load(place["loader"])
        if self._schedule is not None:
            self._schedule.set_state_dict(place["schedule"])
        runtime.tables.go_on(int(place["pushes"]))
        runtime.tables.dense.pull()
        if self._recovery.checkpoint:  # geo: the row state is the trainer's own
            runtime.tables.load_state(os.path.join(self._recovery.checkpoint, f"trainer-{runtime.role.rank}.rows.npz"))
        runtime.samples_trained, runtime.logged, runtime.steps = place["samples"], place["logged"], place["step"]
        runtime.calls = dict(place["calls"])
        self._recovery.rejoins = False  # from here on it meets the others
        return place

    def _before_push(self) -> None:
        if self._alone and self._runtime.calls != self._calls:
            self._alone = False  # a place between two such calls is nobody else's
            self._recovery.plan(trainers_alone=False)
        self._write(1)

    def _write(self, ahead: int) -> None:
        if not self._alone:
            return
        runtime, (step, epoch, saved) = self._runtime, self._at
        place = {
            "step": step + ahead,
            "epoch": epoch,
            "saved": saved,
            "loader": self._loader.state(),
            "schedule": None if self._schedule is None else self._schedule.state_dict(),
            "pushes": runtime.tables.pushes + ahead,
            "samples": runtime.samples_trained,
            "logged": runtime.logged,
            "calls": runtime.calls,
        }
        self._recovery.note(place)
