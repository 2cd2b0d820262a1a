"""The Ray backend: members in one long-lived actor per slot of a Ray cluster.

An actor's call costs a third of a task's, and an actor is a process of its own, so members are seeded as in a local worker. An
actor is given a call only when it is up and idle: nothing waits behind another member or in an actor that the cluster has no
room for. Ray never repeats a call; that is the driver's.
"""

from __future__ import annotations

import os
import time
from queue import Empty, SimpleQueue
from typing import Any

from fleet import logger
from fleet.errors import ConfigError, MemberLost
from fleet.fanout import call as calls
from fleet.fanout import failure, remote, seeds
from fleet.fanout.backends import ray_cluster
from fleet.fanout.backends.protocol import BATCHES, CPUS, PROCESSES, SEEDS, SENDS, Opening
from fleet.fanout.blame import not_picklable, packed_level
from fleet.fanout.call import Call, Outcome
from fleet.fanout.parcel import Packed, pack

SAY_S = 10.0  # after which a user is told that the cluster has no room
_THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB", "BLIS")


class Actor:
    """What runs in a slot: the run's programs, and one call at a time."""

    def __init__(self, run: str, programs: list[bytes]) -> None:
        self.run, self.programs = run, programs
        seeds.watch_imports()

    def ready(self) -> bool:
        """Answer, once the process is up."""
        return True

    def serve(self, level: int, body: bytes, about: tuple[Any, ...]) -> remote.Answer:
        """Run a call."""
        return remote.run(self.run, level, self.programs[level], body, about)


class Ray:
    """A connection or a cluster of the user's is used and left as it was; an address is connected to; else Ray is started here."""

    name = "ray"
    claims = frozenset({BATCHES, CPUS, PROCESSES, SEEDS, SENDS})

    def __init__(self, cluster: Any = None) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError("Ray is not installed", at='backend="ray"', fix="pip install ray") from None
        self._ray, self._given = ray, cluster
        self._leaves = False
        self._actors: dict[int, Any] = {}  # by number: all there are
        self._idle: list[int] = []
        self._calls: dict[int, tuple[int, Call]] = {}  # by ticket: the actor's number, the call
        self._started = 0
        self._failed: list[Outcome] = []
        # What Ray's threads say: (actor's number, ticket or 0 for "it is up", its future); None wakes.
        self._said: SimpleQueue[tuple[int, int, Any] | None] = SimpleQueue()

    def open(self, opening: Opening) -> None:
        self._opening = opening
        programs = [packed_level(level).body for level in opening.levels]
        self._leaves = ray_cluster.connect(self._ray, self._given, opening)
        number = self._admitted(opening)
        self._run = f"{os.getpid()}-{os.urandom(6).hex()}"
        self._programs = self._ray.put(programs)
        threads = {f"{name}_NUM_THREADS": str(max(1, int(opening.cpus))) for name in _THREADS}
        self._kind = self._ray.remote(
            num_cpus=opening.cpus, num_gpus=opening.gpus, max_restarts=0, max_task_retries=0,
            runtime_env={"env_vars": threads},
        )(Actor)  # fmt: skip
        for _ in range(number):
            self._add()
        self._until_one_is_up()

    def _admitted(self, opening: Opening) -> int:
        """Return how many actors to start.

        Raises:
            ConfigError: no machine of the cluster could ever hold a member, or all of them together not so many.
        """
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        there = sum(_held(node, opening) for node in nodes)
        each = f"{opening.cpus:g} cpus" + (f" and {opening.gpus} GPUs" if opening.gpus else "")
        if not there:
            most = ", ".join(f"{node.get('CPU', 0):g} cpus and {node.get('GPU', 0):g} GPUs" for node in nodes)
            what = f"a member asks for {each}, the machines of the Ray cluster have {most or 'nothing'}"
            raise ConfigError(what, at="fleet.spread()", fix="ask for less, or for another cluster")
        if opening.workers is not None and opening.workers > there:
            what = f"workers={opening.workers} of {each} do not fit into the Ray cluster, which holds {there}"
            raise ConfigError(what, at="fleet.spread()", fix=f"workers={there}, or leave workers= out")
        return min(opening.workers or there, max(1, opening.num_calls) if opening.num_calls is not None else there)

    def _add(self) -> None:
        self._started += 1
        number = self._started
        actor = self._actors[number] = self._kind.remote(self._run, self._programs)
        self._ask(number, 0, actor.ready.remote())

    def _ask(self, number: int, ticket: int, answer: Any) -> None:
        answer.future().add_done_callback(lambda future: self._said.put((number, ticket, future)))

    def _until_one_is_up(self) -> None:
        said = time.monotonic() + SAY_S
        while not self._idle:
            self._hear(self._next(SAY_S))
            if not self._idle and time.monotonic() > said:
                said = float("inf")
                free = self._ray.available_resources().get("CPU", 0.0)
                logger.warning(f"fan-out: Ray has started no worker for {SAY_S:g} s ({free:g} cpus are free); waiting for one")

    def _next(self, timeout_s: float | None) -> tuple[int, int, Any] | None:
        try:
            return self._said.get(timeout_s != 0, timeout_s or None)
        except Empty:
            return None

    def _hear(self, said: tuple[int, int, Any] | None) -> Outcome | None:
        """Take what an actor said; return the outcome, if that is one that somebody waits for."""
        if said is None or said[0] not in self._actors:
            return None
        number, ticket, future = said
        error = future.exception()
        if error is None:
            self._idle.append(number)
        else:
            self._drop(number)
        if ticket:
            _, call = self._calls.pop(ticket)
            if error is not None:
                self._add()
            return self._outcome(call, future, error)
        if error is not None and self._actors:
            logger.warning(f"fan-out: a worker could not be started on the Ray cluster: {_first_line(error)}")
        elif error is not None:
            what = f"no worker could be started on the Ray cluster: {_first_line(error)}"
            fix = "see Ray's logs; its machines need this Python, fleet and what the members import"
            raise ConfigError(what, at='backend="ray"', fix=fix) from error
        return None

    def _outcome(self, call: Call, future: Any, error: BaseException | None) -> Outcome:
        if error is not None:
            member = failure.member_text(call.path)
            fix = "see the logs of Ray's workers; lost_retries= repeats it"
            lost = MemberLost(f"Ray lost {member}: {type(error).__name__}: {_first_line(error)}", at=member, fix=fix)
            return Outcome(call.ticket, calls.LOST, error=lost, worker="ray")
        state, body, seconds, said = future.result()
        outcome = Outcome(call.ticket, state, Packed(body) if body else None, seconds, worker="ray")
        if said is not None:
            outcome.error, outcome.traceback = failure.rebuilt(call.path, *said[:3]), said[3]
        return outcome

    def room(self) -> int:
        return len(self._idle)

    def start(self, call: Call) -> None:
        try:
            body = call.item.body if type(call.item) is Packed else pack(call.item).body
        except Exception as error:  # noqa: BLE001  pickling runs the user's code
            wrong = not_picklable(call.item, error, what="the item", at=failure.member_text(call.path))
            self._failed.append(Outcome(call.ticket, calls.ERROR, error=wrong))
            return
        number = self._idle.pop()
        self._calls[call.ticket] = number, call
        about = (call.path, call.attempt, call.seed, self._opening.cpus, True)
        self._ask(number, call.ticket, self._actors[number].serve.remote(call.level, body, about))

    def wait(self, timeout_s: float | None) -> list[Outcome]:
        found, self._failed = self._failed, []
        if found:
            timeout_s = 0.0
        elif not self._calls and not self._idle:  # every actor was lost: nothing can start before a new one is up
            timeout_s = SAY_S
        said = self._next(timeout_s)
        while said is not None:
            outcome = self._hear(said)
            if outcome is not None:
                found.append(outcome)
            said = self._next(0)
        return found

    def wake(self) -> None:
        self._said.put(None)

    def stop(self) -> None:
        for number, _ in self._calls.values():
            self._drop(number)
        self._calls.clear()

    def _drop(self, number: int) -> None:
        actor = self._actors.pop(number)
        if number in self._idle:
            self._idle.remove(number)
        self._ray.kill(actor, no_restart=True)

    def close(self) -> None:
        if self._ray.is_initialized():
            for number in list(self._actors):
                self._drop(number)
        if self._leaves:
            self._leaves = False
            ray_cluster.leave(self._ray)


def _held(node: dict[str, float], opening: Opening) -> int:
    """Return how many members a machine holds at once."""
    by_cpus = int(node.get("CPU", 0.0) / opening.cpus + 1e-9)
    return min(by_cpus, int(node.get("GPU", 0.0) // opening.gpus)) if opening.gpus else by_cpus


def _first_line(error: BaseException) -> str:
    """Return what Ray says in a line: the rest of its text names actors and ports."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next((line for line in lines if "exit detail:" in line), "")
    return (lines[0] if lines else type(error).__name__) + (" " + reason.partition("exit detail: ")[2].partition(" Some common")[0])
