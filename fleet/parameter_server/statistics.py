"""What a server counts while it serves, and who is slower than the others.

Every connection's thread counts in a Meter of its own, so that counting takes no lock and loses nothing; they are added up when
somebody asks. Latencies go into buckets of a quarter of a factor of two: what is reported is at most 19 % above what was.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from statistics import median
from typing import Any, NamedTuple

PER_OCTAVE = 4
NUM_BUCKETS = 27 * PER_OCTAVE  # from 1 us to 134 s; the last one takes what is longer

# Named as slow: beyond twice the others, and by enough to be felt. Smaller differences are a busy machine's noise.
SLOWER = 2.0
FLOOR_S = 0.005  # of a server's median push, which takes well below 1 ms where nothing is wrong
WINDOW_PUSHES = 64  # that a server is judged by
WINDOW_S = 10.0  # that a trainer is judged by
LOST_SHARE = 0.2  # of the others' time, spent waiting for this trainer


class Histogram:
    """Latencies by logarithm. One thread adds; any may read."""

    def __init__(self) -> None:
        self.counts = [0] * NUM_BUCKETS
        self.sum_s, self.max_s = 0.0, 0.0

    def add(self, seconds: float) -> None:
        us = seconds * 1e6
        bucket = min(NUM_BUCKETS - 1, int(PER_OCTAVE * math.log2(us)) + 1) if us > 1 else 0
        self.counts[bucket] += 1
        self.sum_s += seconds
        self.max_s = max(self.max_s, seconds)

    def merge(self, other: Histogram) -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum_s += other.sum_s
        self.max_s = max(self.max_s, other.max_s)

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile_s(self, q: float) -> float:
        """Return an upper bound of the q-th quantile; 0 if there is none."""
        left = math.ceil(q * self.count)
        for bucket, count in enumerate(self.counts):
            left -= count
            if count and left <= 0:
                return min(bucket_end_s(bucket), self.max_s)
        return 0.0

    def summary(self) -> dict[str, float]:
        """Return count, p50, p99 and max in milliseconds, and the sum in seconds."""
        shown = {"p50_ms": self.quantile_s(0.5), "p99_ms": self.quantile_s(0.99), "max_ms": self.max_s}
        return {"count": self.count, **{name: round(1e3 * s, 4) for name, s in shown.items()}, "sum_s": round(self.sum_s, 6)}


def bucket_end_s(bucket: int) -> float:
    """Return the largest latency of a bucket."""
    return float(1e-6 * 2 ** (bucket / PER_OCTAVE))


class Count(NamedTuple):
    """Of one table."""

    requests: int = 0
    keys: int = 0

    def plus(self, requests: int, keys: int) -> Count:
        return Count(self.requests + requests, self.keys + keys)


class Meter:
    """What one thread has served."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.pulls: dict[int, Count] = {}  # by table number
        self.pushes: dict[int, Count] = {}
        self.pull, self.push, self.wait = Histogram(), Histogram(), Histogram()
        self.busy = self.waiting = False

    def merge(self, other: Meter) -> None:
        for mine, theirs in ((self.pulls, other.pulls), (self.pushes, other.pushes)):
            for table, count in list(theirs.items()):
                mine[table] = mine.get(table, Count()).plus(*count)
        for name in ("pull", "push", "wait"):
            getattr(self, name).merge(getattr(other, name))


class Serving:
    """``with`` it around one request: its time is added to a histogram, its keys to their tables, unless it failed."""

    def __init__(self, meter: Meter, histogram: Histogram, counts: dict[int, Count], parts: list[tuple[int, int]]) -> None:
        self._meter, self._histogram, self._counts, self._parts = meter, histogram, counts, parts

    def __enter__(self) -> None:
        self._meter.busy = True
        self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._meter.busy = False
        if kind is None:
            self._histogram.add(time.perf_counter() - self._began)
            for table, keys in self._parts:
                self._counts[table] = self._counts.get(table, Count()).plus(1, keys)


class Statistics:
    """One server's counters.

    Args:
        world_size: number of trainers.
    """

    def __init__(self, world_size: int) -> None:
        self._mine = threading.local()
        self._guard = threading.Lock()  # guards the two below: threads come and go
        self._meters: list[Meter] = []
        self._ended = Meter()  # of threads that are gone
        self._last_pusher = 0
        self.steps: dict[int, int] = {}  # trainer -> its newest push
        self.caused_s = [0.0] * world_size  # how long others waited for each trainer
        self.slow_trainer = ""  # named, with the reason
        self._window = (time.monotonic(), list(self.caused_s), dict(self.steps))

    def pulling(self, parts: list[tuple[int, int]]) -> Serving:
        """Return a context for the work of a pull: table numbers and numbers of keys."""
        meter = self._meter()
        return Serving(meter, meter.pull, meter.pulls, parts)

    def pushing(self, parts: list[tuple[int, int]]) -> Serving:
        """Return a context for the work of a push."""
        meter = self._meter()
        return Serving(meter, meter.push, meter.pushes, parts)

    def waiting(self, flag: bool) -> float:
        """Note that this thread's pull begins or ends to wait for trainers; return the time."""
        self._meter().waiting = flag
        return time.perf_counter()

    def waited(self, trainer: int, seconds: float) -> None:
        """Note how long a trainer's pull waited for the pushes of others; it ended with the push that came last."""
        self._meter().wait.add(seconds)
        if trainer != self._last_pusher and seconds > 1e-3:
            self.caused_s[self._last_pusher] += seconds

    def pushed(self, trainer: int, step: int) -> str:
        """Note that a push counted; return what is to be said of a slow trainer, once."""
        self._last_pusher, self.steps[trainer] = trainer, step
        now = time.monotonic()
        if now - self._window[0] < WINDOW_S:
            return ""
        with self._guard:
            began, caused, steps = self._window
            if now - began < WINDOW_S:  # another thread was first
                return ""
            self._window = (now, list(self.caused_s), dict(self.steps))
        lost = [a - b for a, b in zip(self.caused_s, caused, strict=True)]
        taken = {t: s - steps.get(t, 0) for t, s in self.steps.items()}
        found = slow_trainer(lost, taken, now - began)
        if not found or self.slow_trainer:
            return ""
        self.slow_trainer = found
        return found

    def total(self) -> Meter:
        """Return the sum of all threads' meters."""
        with self._guard:
            total = Meter()
            for meter in (self._ended, *self._meters):
                total.merge(meter)
        return total

    def in_work(self) -> tuple[int, int]:
        """Return the requests that are being served, and the pulls that wait for trainers."""
        with self._guard:
            return sum(m.busy for m in self._meters), sum(m.waiting for m in self._meters)

    def status(self) -> dict[str, Any]:
        """Return what STATUS tells beside the tables."""
        total, (served, waits) = self.total(), self.in_work()
        furthest = max(self.steps.values(), default=0)
        return {
            "pull": total.pull.summary(),
            "push": total.push.summary(),
            "wait": total.wait.summary(),
            "in_work": served,
            "waiting": waits,
            "trainers": {
                str(t): {"step": s, "behind": furthest - s, "waited_for_s": round(self.caused_s[t], 3)}
                for t, s in sorted(self.steps.items())
            },
            "slow_trainer": self.slow_trainer,
        }

    def tables(self, total: Meter, number: int) -> dict[str, int]:
        """Return the counters of one table."""
        pulls, pushes = total.pulls.get(number, Count()), total.pushes.get(number, Count())
        return {"pulls": pulls.requests, "keys_pulled": pulls.keys, "pushes": pushes.requests, "keys_pushed": pushes.keys}

    def _meter(self) -> Meter:
        meter: Meter | None = getattr(self._mine, "meter", None)
        if meter is None:
            meter = self._mine.meter = Meter()
            with self._guard:
                for gone in [m for m in self._meters if not m.thread.is_alive()]:
                    self._meters.remove(gone)
                    self._ended.merge(gone)
                self._meters.append(meter)
        return meter


def slow_trainer(lost_s: list[float], steps: dict[int, int], window_s: float) -> str:
    """Name a trainer that holds the others up, or takes fewer than half of their steps; empty if there is none.

    Args:
        lost_s: trainer -> how long others waited for it in the window.
        steps: trainer -> steps that it took in the window.
    """
    if len(lost_s) < 2:
        return ""
    for trainer, lost in enumerate(lost_s):
        others = median(lost_s[:trainer] + lost_s[trainer + 1 :])
        share = lost / (window_s * (len(lost_s) - 1))
        if share > LOST_SHARE and lost > SLOWER * others:
            return f"trainer {trainer} is slower than the others: they spent {share:.0%} of {window_s:.0f} s waiting for it"
    for trainer, taken in sorted(steps.items()):
        rest = [s for t, s in steps.items() if t != trainer]
        if rest and SLOWER * taken < median(rest) and median(rest) >= 10:
            return f"trainer {trainer} is slower than the others: {taken} steps in {window_s:.0f} s, they took {median(rest):.0f}"
    return ""


class RoundTrips:
    """How long one trainer's pushes to each server take, and which server is slower than the others."""

    def __init__(self, num_servers: int) -> None:
        self._newest: list[deque[float]] = [deque(maxlen=WINDOW_PUSHES) for _ in range(num_servers)]
        self._count = 0
        self.slow: dict[int, str] = {}  # server -> what was said of it

    def add(self, server: int, seconds: float) -> None:
        """Note one push to one server."""
        self._newest[server].append(seconds)

    def name_slow(self) -> list[str]:
        """Return what is to be said of slow servers, each once; call it after every push."""
        self._count += 1
        if self._count % WINDOW_PUSHES or len(self._newest) < 2:
            return []
        medians = self.medians_s()
        said = []
        for server, mine in enumerate(medians):
            others = median(medians[:server] + medians[server + 1 :])
            if server not in self.slow and mine > max(FLOOR_S, SLOWER * others):
                text = f"server {server} is slower than the others: a push takes {1e3 * mine:.1f} ms, to them {1e3 * others:.1f} ms"
                self.slow[server] = text
                said.append(text)
        return said

    def medians_s(self) -> list[float]:
        """Return each server's median of the newest pushes."""
        return [median(newest) if newest else 0.0 for newest in self._newest]


def combine(statuses: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return the tables' counters, added up over servers."""
    tables: dict[str, dict[str, int]] = {}
    for status in statuses:
        for name, counters in status["tables"].items():
            mine = tables.setdefault(name, dict.fromkeys(counters, 0))
            for counter, value in counters.items():
                mine[counter] += value
    # A batch's pull and push go to every server: they count once.
    for name, mine in tables.items():
        for counter in ("pulls", "pushes"):
            mine[counter] = max(status["tables"][name][counter] for status in statuses)
    return tables
