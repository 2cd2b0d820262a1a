"""The loop of a run: feed the backend, take outcomes, write the journal, show. One thread; every backend is driven by it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from itertools import count

from fleet.errors import ConfigError
from fleet.fanout.backends import protocol
from fleet.fanout.backends.protocol import Backend, Opening
from fleet.fanout.call import Call
from fleet.fanout.chain import Level
from fleet.fanout.flow import Flow, Task
from fleet.fanout.interrupts import Interrupts
from fleet.fanout.limits import Tokens
from fleet.fanout.options import Options
from fleet.fanout.progress import Progress
from fleet.fanout.results import Result

LONGEST_WAIT_S = 3600.0


class Driver:
    """A run of one or more flows on one backend. Use it in a ``with`` block: leaving it ends every worker."""

    def __init__(self, flows: list[Flow], backend: Backend, num_items: int | None, reuse: bool) -> None:
        self.flows, self.backend = flows, backend
        options = flows[0].options
        for flow in flows:
            refuse_unclaimed(flow, backend)
        self._tokens = Tokens([flow.options.limit or {} for flow in flows])
        self._running: dict[int, tuple[Flow, Task]] = {}
        self._tickets = count(1)
        self._feeding = True
        self._cancelled = False
        self._interrupts = Interrupts(backend.wake, enabled=backend.name != "inline")
        self._progress = Progress(options.progress, options.name, num_items)
        levels: list[Level] = []
        for flow in flows:
            flow.first_level = len(levels)
            levels += flow.levels
        calls = num_items if all(len(flow.levels) == 1 for flow in flows) else None
        self._opening = Opening(
            tuple(levels), options.workers, calls, options.cpus, options.gpus,
            options.memory if isinstance(options.memory, int) else None, flows[0].directory.path, reuse, options.name,
        )  # fmt: skip
        self._turn = 0
        self._out: deque[Result] = deque()  # shown, not yet taken by whoever iterates

    def __enter__(self) -> Driver:
        try:
            self.backend.open(self._opening)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def ended(self) -> bool:
        """Say whether everything has run and was shown."""
        return not self._running and all(flow.ended and not flow.shown for flow in self.flows)

    def results(self) -> Iterator[Result]:
        """Yield results as they are shown, all flows' mixed, until everything has run.

        Raises:
            KeyboardInterrupt: once the running members had ``grace_s`` (at the second Ctrl-C at once).
            SnapshotError: the journal cannot be written.
            Exception: what the iterator of the items raised, once the running members have ended.
        """
        while (self._out or not self.ended) and not self._cancelled:
            self._out.extend(self.step(None))
            while self._out:
                yield self._out.popleft()
        for flow in self.flows:
            if flow.broken is not None:
                raise flow.broken

    def step(self, timeout_s: float | None) -> list[Result]:
        """Do one round; return what it shows."""
        self._feed()
        self._commit()
        if not any(flow.shown for flow in self.flows) and not self.ended:
            with self._interrupts:
                outcomes = self.backend.wait(self._patience(timeout_s))
            for outcome in outcomes:
                flow, task = self._running.pop(outcome.ticket)
                self._tokens.give(flow.options.limit)
                flow.take(task, outcome)
            self._commit()
            if self._interrupts.count:
                self._interrupted()
        shown = [result for flow in self.flows for result in flow.shown]
        for flow in self.flows:
            flow.shown.clear()
        self._progress.show(self.flows, len(self._running))
        return shown

    def _commit(self) -> None:
        for flow in self.flows:
            flow.commit()

    def _feed(self) -> None:
        """Start what there is room for, the flows in turn."""
        room = self.backend.room() if self._feeding else 0
        idle = 0
        while room > 0 and idle < len(self.flows):
            flow = self.flows[self._turn % len(self.flows)]
            self._turn += 1
            options = flow.options
            task = flow.next() if self._tokens.free(options.limit) else None
            if task is None:
                idle += 1
                continue
            idle = 0
            room -= 1
            self._tokens.take(options.limit)
            ticket = next(self._tickets)
            self._running[ticket] = flow, task
            flow.running += 1
            attempt, level = task.attempts + task.losses + 1, flow.first_level + task.level
            self.backend.start(Call(ticket, level, task.path, task.item, attempt, task.seed, options.timeout))

    def _patience(self, timeout_s: float | None) -> float | None:
        """Return how long nothing can happen unless a member ends."""
        if not self._running and not any(flow.due_at() or flow.waits for flow in self.flows):
            return 0.0
        moments = [due for flow in self.flows if (due := flow.due_at()) is not None] if self._feeding else []
        limit = min((max(0.0, due - time.monotonic()) for due in moments), default=None)
        if timeout_s is not None:
            limit = timeout_s if limit is None else min(limit, timeout_s)
        every = self._progress.every_s
        return every if every is not None and (limit is None or every < limit) else limit

    def wind_down(self, grace_s: float) -> list[Result]:
        """Start nothing more; give what runs ``grace_s``, then end it. Return what was finished meanwhile."""
        self._feeding = False
        for flow in self.flows:
            flow.drop()
        found = list(self._out)
        self._out.clear()
        until, interrupts = time.monotonic() + grace_s, self._interrupts.count
        while self._running and self._interrupts.count == interrupts and (left := until - time.monotonic()) > 0:
            found += self._quietly(left)
        self.backend.stop()
        return found

    def _quietly(self, timeout_s: float) -> list[Result]:
        with self._interrupts:
            outcomes = self.backend.wait(min(timeout_s, LONGEST_WAIT_S))
        for outcome in outcomes:
            flow, task = self._running.pop(outcome.ticket)
            flow.take(task, outcome)
            flow.drop()
        self._commit()
        shown = [result for flow in self.flows for result in flow.shown]
        for flow in self.flows:
            flow.shown.clear()
        return shown

    def _interrupted(self) -> None:
        """Answer Ctrl-C: once, stop feeding and wait ``grace_s``; twice, end at once."""
        options = self.flows[0].options
        running, grace = len(self._running), f"{options.grace_s:g} s"
        self._progress.say(f"interrupted: {running} members are running and have {grace}; Ctrl-C again ends them")
        if self._interrupts.count == 1:
            self.wind_down(options.grace_s)
        kept = sum(flow.counts["done"] for flow in self.flows)
        where = "" if self.flows[0].directory.temporary else f", kept in {self.flows[0].directory.path}"
        self._progress.say(f"{kept} members finished{where}")
        raise KeyboardInterrupt

    def cancel(self) -> None:
        """Make the loop come round, and end as if all had run, once it winds down (from any thread)."""
        self._cancelled = True
        self.backend.wake()

    def close(self) -> None:
        """End the workers; make the journals durable; let other drivers in."""
        try:
            if self._running:
                self.backend.stop()
            self.backend.close()
        finally:
            self._progress.close(self.flows)
            for flow in self.flows:
                flow.recall.close()
                flow.directory.release()


def refuse_unclaimed(flow: Flow, backend: Backend) -> None:
    """Refuse what a backend cannot do.

    Raises:
        ConfigError: it names the option, and the backends that claim it.
    """
    options: Options = flow.options
    wanted = {
        "timeout": (options.timeout is not None, protocol.TIMEOUT, "give the call inside the member a timeout of its own"),
        "memory": (options.memory is not None, protocol.MEMORY, "leave memory= out"),
        "gpus": (options.gpus > 0, protocol.CPUS, "leave gpus= out"),
        "cpus": (options.cpus != 1, protocol.CPUS, "leave cpus= out"),
        "batch": (any(level.batch for level in flow.levels), protocol.BATCHES, "call .map on single members"),
    }
    for name, (asked, claim, fix) in wanted.items():
        if asked and claim not in backend.claims:
            what = f"{name} cannot be kept by the {backend.name} backend"
            raise ConfigError(what, at="fleet.spread()", fix=f'backend="local", or {fix}')
