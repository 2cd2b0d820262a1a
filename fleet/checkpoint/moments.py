"""When all trainers save: at steps that each knows by itself, or that they agree on.

Time passes for each trainer alone, and TERM comes to each when it likes. So every few steps, at least so often that
``AGREE_S`` passes between, all trainers meet at the end of a step (0.1 ms) and hear what the others have: trainer 0's clock
counts, and one trainer's TERM is everybody's. Trainers whose dense parameters live on servers run apart on purpose and never
meet so: they hear of a TERM when they save anyway.
"""

from __future__ import annotations

import json
import time

from fleet.checkpoint.preemption import Preemption
from fleet.runtime import Runtime

AGREE_S, MOST_STEPS = 0.1, 32  # at 1 ms a step a meeting of 0.1 ms is then 0.3 % of the time


class Moments:
    """One trainer's view of when to save next.

    Args:
        every_steps: save at every so-manieth step; None: not by steps.
        every_minutes: save when so much time has passed since the last save began; None: not by time.
    """

    def __init__(self, runtime: Runtime, every_steps: int | None, every_minutes: float | None) -> None:
        self._runtime, self._every_steps = runtime, every_steps
        self._every_s = None if every_minutes is None else every_minutes * 60
        self.preemption = Preemption()
        self.leaves = False  # all trainers save and end
        self._due = False
        self._saved_s = self._met_s = time.monotonic()
        self._next, self._spacing = 0, 1  # step of the next meeting, and steps between two

    @property
    def is_due(self) -> bool:
        """Whether the trainers save when the body of this step ends."""
        return self._due or self.leaves

    @property
    def meets(self) -> bool:
        """Whether the trainers of this job can agree between two saves."""
        return getattr(self._runtime.tables, "dense", None) is None

    def after_step(self, step: int) -> None:
        """Count a step; meet the others if it is one of those."""
        if self._every_steps is not None and step % self._every_steps == 0:
            self._due = True
        if self._runtime.role.world_size == 1:
            self._hear(self.preemption.asked, time.monotonic() - self._saved_s)
        elif self.meets and step >= self._next:
            now_s = time.monotonic()
            mine = json.dumps([self.preemption.asked, now_s - self._saved_s, now_s - self._met_s])
            said = [json.loads(words) for words in self._runtime.meet("end of a step", mine.encode())]
            self._hear(any(asked for asked, _, _ in said), said[0][1])
            self._space(step, said[0][2])

    def saved(self) -> None:
        """Take note that a save begins."""
        self._due = False
        self._saved_s = time.monotonic()

    def hear_at_save(self) -> None:
        """In a job whose trainers run apart: hear, while all are here, whether one was asked to leave."""
        if not self.meets and self._runtime.role.world_size > 1:
            said = self._runtime.meet("a TERM for any trainer", b"1" if self.preemption.asked else b"")
            self.leaves |= any(said)

    def _hear(self, leaves: bool, since_save_s: float) -> None:
        self.leaves |= leaves
        if self._every_s is not None and since_save_s >= self._every_s:
            self._due = True

    def _space(self, step: int, elapsed_s: float) -> None:
        """Choose the step of the next meeting by trainer 0's clock."""
        steps = int(self._spacing * AGREE_S / max(elapsed_s, 1e-6))
        self._spacing = max(1, min(steps, MOST_STEPS, 2 * self._spacing))
        self._next, self._met_s = step + self._spacing, time.monotonic()
