"""Which losses are answered by starting again, how, and when it is given up. Decides; ``agent.py`` does it."""

from __future__ import annotations

import time
from typing import NamedTuple

from fleet import recovery
from fleet.launch.report import Failure
from fleet.launch.spec import Job, ProcessSpec

EX_NO_PROGRESS = 93


class Restart(NamedTuple):
    """One loss and its answer."""

    spec: ProcessSpec  # of the process that was lost
    alone: bool  # it alone is started again; else all processes of the job
    number: int  # of this role's, from 1
    of: int
    cause: str
    why: str  # this answer and no other
    after_s: float  # since the run began

    def text(self) -> str:
        """Say what was lost and what follows."""
        who = f"{self.spec.name} alone" if self.alone else "all processes"
        why = f" ({self.why})" if self.why else ""
        return f"{self.spec.name}: {self.cause}; restart {self.number} of {self.of}: {who} started again{why}"


class Restarts:
    """The losses of one run so far.

    A loss is answered while there are restarts left for its role and the one before led to at least one more step. A job
    that raises before its first step would raise again, and is not started again; one that a signal ends there is.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.done: list[Restart] = []
        self.refusal = ""  # why the last loss was not answered
        self.no_progress = False
        self._taken: dict[int, int] = {}  # rank -> steps at the last restart
        self._start_s = time.monotonic()

    def answer(self, cause: Failure, spec: ProcessSpec, others_failed: bool) -> Restart | None:
        """Return how a loss is answered; None if it ends the run."""
        of = self._job.restarts[spec.role]
        if not of:
            return None
        number = 1 + sum(r.spec.role == spec.role for r in self.done)
        if number > of:
            self.refusal = f"the {of} restart{'s' * (of > 1)} of a {spec.role} that --{spec.role}_restarts allows are used up"
            return None
        places = {t.number: recovery.read_position(recovery.position_path(self._job.log_dir, t.number)) for t in self._job.trainers}
        taken = {rank: place.taken for rank, place in places.items()}
        alone, why = self._scope(spec, others_failed, places)
        if not self._progressed(spec, taken):
            self.no_progress = bool(self.done)
            if self.no_progress:
                self.refusal = "it was started again and no step was taken since: restarts make no progress"
                return None
            if cause.status >= 0:
                self.refusal = "it failed before any step was taken, and would fail again"
                return None
        self._taken = taken
        restart = Restart(spec, alone, number, of, cause.summary(), why, time.monotonic() - self._start_s)
        self.done.append(restart)
        return restart

    def lines(self) -> list[str]:
        """Return the history for the end of a run: a line per restart, and what was lost by carrying on."""
        out = [f"  at {restart.after_s:.1f} s {restart.text()}" for restart in self.done]
        losses = [line for s in self._job.servers for line in recovery.read_losses(self._job.log_dir, s.number)]
        return out + [f"  {line}" for line in losses]

    def _progressed(self, spec: ProcessSpec, taken: dict[int, int]) -> bool:
        last = self.done[-1] if self.done else None
        ranks = [spec.number] if spec.role == "trainer" and last and last.alone and last.spec is spec else list(taken)
        return any(taken[rank] > self._taken.get(rank, 0) for rank in ranks)

    def _scope(self, spec: ProcessSpec, others_failed: bool, places: dict[int, recovery.Place]) -> tuple[bool, str]:
        """Say whether a process can be started again alone, and if not, why not."""
        plan = recovery.read_plan(self._job.log_dir)
        if others_failed:
            return False, "other processes failed with it"
        if spec.role == "server":
            if plan.on_server_loss != "carry_on":
                return False, "on_server_loss is rollback"
            if plan.uploaded and not plan.checkpoint:
                return False, "its tables began with uploaded weights, and there is no checkpoint yet that holds them"
            return True, "on_server_loss is carry_on"
        if not plan.trainers_alone:
            return False, "the trainers hold state that only a checkpoint has"
        if spec.number == 0:
            return False, "trainer 0 hosts the control channel"
        place = places[spec.number]
        if place.busy or place.data is None:
            return False, "it was in a call of all trainers" if place.busy else "it had not noted a position yet"
        return True, "its past is on the servers"
