"""One spread under way: which members are ready, what an outcome means, what is shown.

A member is finished in three steps, in this order: its outcome is known; it is in the journal; it is shown.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from typing import Any

from fleet.fanout import call as calls
from fleet.fanout import chain
from fleet.fanout.call import Outcome, unpacked
from fleet.fanout.journal import Entry
from fleet.fanout.options import Options
from fleet.fanout.parcel import Packed
from fleet.fanout.recall import Recall
from fleet.fanout.results import Result
from fleet.fanout.run_directory import RunDirectory

BACKOFF_MOST_S = 30.0
NOTHING: Any = object()  # what an iterator of (place, item) gives that has nothing yet
CACHED_AT_ONCE = 64  # members that the journal has, before they are shown and workers are looked after


def seed_of(run_seed: int | None, path: tuple[int, ...]) -> int | None:
    """Return a member's 63-bit seed: of the run's seed and its path alone, never of workers, backend or timing."""
    if run_seed is None:
        return None
    text = f"{run_seed}/{'.'.join(map(str, path))}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1


class Task:
    """A member at one level: from the moment it is known until it is finished. ``attempts`` do not count the lost ones."""

    __slots__ = ("attempts", "item", "key", "level", "losses", "path", "seed")

    def __init__(self, level: int, path: tuple[int, ...], item: Any, seed: int | None, key: str) -> None:
        self.level, self.path, self.item, self.seed, self.key = level, path, item, seed, key
        self.attempts = self.losses = 0


class Flow:
    """The members of one spread, from its items to its results."""

    def __init__(
        self, items: Iterable[tuple[int, Any]], levels: tuple[chain.Level, ...], options: Options, directory: RunDirectory
    ) -> None:
        self.levels, self.options, self.directory = levels, options, directory
        self.recall = Recall(directory, levels, options)
        self.first_level = 0  # of the backend's levels: several spreads may share one
        self.shown: deque[Result] = deque()  # finished and in the journal (after `commit`), not yet taken
        self.expanded: set[tuple[int, ...]] = set()  # members whose value is the list of their inner members
        self.broken: BaseException | None = None  # what the iterator of the items raised
        self.counts = {"done": 0, "failed": 0, "cached": 0}
        self.running = 0
        self.waits = False  # the iterator has nothing at the moment, and will wake the driver when it has
        self._source: Iterator[tuple[int, Any]] | None = iter(items)
        self._ready: list[deque[Task]] = [deque() for _ in levels]
        self._delayed: list[tuple[float, int, Task]] = []
        self._order = 0
        self._fresh: list[Result] = []  # finished, not yet in the journal
        self._first_open = 0
        self._closed: set[int] = set()  # places beyond _first_open whose member has ended
        self._jitter = random.Random(0)  # of retries alone: members' seeds are not touched

    @property
    def ended(self) -> bool:
        """Say whether nothing is left to run."""
        return not self.running and self._source is None and not self._delayed and not any(self._ready)

    def first_open(self) -> int:
        """Return the first place whose member is not known to have ended (streaming in input order)."""
        while self._first_open in self._closed:
            self._closed.discard(self._first_open)
            self._first_open += 1
        return self._first_open

    def due_at(self) -> float | None:
        """Return when the next delayed retry is due."""
        return self._delayed[0][0] if self._delayed else None

    def next(self) -> Task | None:
        """Return a member to run now, None if there is none at this moment. Those that the journal has are finished on the way."""
        while len(self._fresh) < CACHED_AT_ONCE:
            task = self._waiting() or self._pull()
            if task is None or not self._recalled(task):
                return task
        return None

    def _waiting(self) -> Task | None:
        """Return a member that is known already: inner ones first, so that few outer ones are open at once."""
        while self._delayed and self._delayed[0][0] <= time.monotonic():
            task = heapq.heappop(self._delayed)[2]
            self._ready[task.level].append(task)
        return next((queue.popleft() for queue in reversed(self._ready) if queue), None)

    def _pull(self) -> Task | None:
        """Take the next item (with ``batch``: the next few) from the user's iterator."""
        if self._source is None:
            return None
        size = self.levels[0].batch
        try:
            taken = list(islice(self._source, size or 1))
        except Exception as error:  # noqa: BLE001  the user's generator: raised by the driver once the running members ended
            self._source, self.broken = None, error
            return None
        if not taken:
            self._source = None
            return None
        self.waits = taken[0] is NOTHING
        if self.waits:
            return None
        path = (taken[0][0],)
        item = [element for _, element in taken] if size else taken[0][1]
        seed = seed_of(self.options.seed, path)
        return Task(0, path, item, seed, self.recall.key(0, item, seed, path))

    def _recalled(self, task: Task) -> bool:
        """Finish a task from the journal, if it is there."""
        if task.attempts or task.losses:
            return False
        entry = self.recall.find(task.key)
        if entry is None:
            self.recall.explain(task.key, task.path, task.level)
            return False
        self._finish_cached(task, entry)
        return True

    def _finish_cached(self, task: Task, entry: Entry) -> None:
        task.attempts = entry.attempts
        self.counts["cached"] += 1
        value = self.recall.value(entry)
        self._finish(task, Outcome(0, entry.state, value, entry.seconds), cached=True)

    def take(self, task: Task, outcome: Outcome) -> None:
        """Take the outcome of an attempt: finish the member, or put it back."""
        self.running -= 1
        if outcome.state == calls.RETURNED:
            self._ready[task.level].appendleft(task)
            return
        if outcome.state == calls.LOST:
            task.losses += 1
            again = task.losses <= self.options.lost_retries
        else:
            task.attempts += 1
            kinds = self.options.retry_on
            again = (
                outcome.state in (calls.ERROR, calls.TIMEOUT)
                and task.attempts <= self.options.retries
                and isinstance(outcome.error, kinds)
            )
        if not again:
            task.attempts += task.losses
            self._finish(task, outcome)
        elif outcome.state == calls.LOST or not self.options.backoff_s:
            self._ready[task.level].appendleft(task)
        else:
            wait = min(BACKOFF_MOST_S, self.options.backoff_s * 2 ** (task.attempts - 1)) * self._jitter.uniform(0.5, 1.0)
            self._order += 1
            heapq.heappush(self._delayed, (time.monotonic() + wait, self._order, task))

    def _finish(self, task: Task, outcome: Outcome, cached: bool = False) -> None:
        good = outcome.state in (calls.OK, calls.DROPPED)
        self.counts["done" if good else "failed"] += 1
        if not cached:
            outcome = self.recall.note(task.key, task.path, task.level, outcome, task.attempts)
            good = outcome.state in (calls.OK, calls.DROPPED)
        if task.level == 0:
            self._closed.update(range(task.path[0], task.path[0] + (len(task.item) if self.levels[0].batch else 1)))
        if outcome.state == calls.DROPPED:
            return
        level = self.levels[task.level]
        if good and level.spreads:
            self._open(task, outcome)
        elif good and level.batch:
            values = unpacked(outcome.value)
            for index, (item, value) in enumerate(zip(task.item, values, strict=True)):
                if value is not chain.DROPPED:
                    self._fresh.append(self._result(task, outcome, cached, (*task.path[:-1], task.path[-1] + index), item, value))
        elif level.batch:  # the batch failed: each of its members did
            for index, item in enumerate(task.item):
                self._fresh.append(self._result(task, outcome, cached, (*task.path[:-1], task.path[-1] + index), item, None))
        else:
            self._fresh.append(self._result(task, outcome, cached, task.path, task.item, outcome.value))

    def _open(self, task: Task, outcome: Outcome) -> None:
        """Make the inner members of a member whose level ended in a spread."""
        items = unpacked(outcome.value)
        self.expanded.add(task.path)
        level, batch = task.level + 1, self.levels[task.level + 1].batch
        for start in range(0, len(items), batch or 1):
            path = (*task.path, start)
            seed = seed_of(self.options.seed, path)
            item = [unpacked(i) for i in items[start : start + batch]] if batch else items[start]
            key = ""
            if task.key:  # an inner member is what its outer one made: nothing of it needs hashing
                text = blake2b(f"{task.key}/{start}".encode(), digest_size=16).hexdigest()
                key = self.recall.key_of(level, text, seed)
            self._ready[level].append(Task(level, path, item, seed, key))

    def _result(self, task: Task, outcome: Outcome, cached: bool, path: tuple[int, ...], item: Any, value: Any) -> Result:
        state = calls.OK if outcome.state == calls.DROPPED else outcome.state
        made = Result(path, item if type(item) is not Packed else unpacked(item), state, value, outcome.seconds, task.attempts)
        made.error, made.traceback, made.log = outcome.error, outcome.traceback, outcome.log
        made.worker, made.cached, made.directory = outcome.worker, cached, self.directory
        made.seed = task.seed
        return made

    def commit(self) -> None:
        """Put what has finished into the journal, then show it."""
        self.recall.flush()
        if self._fresh:
            self.shown.extend(self._fresh)
            self._fresh.clear()

    def drop(self) -> None:
        """Forget what has not begun: the run is ending."""
        self._source = None
        self._delayed.clear()
        for queue in self._ready:
            queue.clear()
