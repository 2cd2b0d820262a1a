"""The Dask backend: members on the workers of a Dask cluster, the user's own or one that lives as long as the run.

Retries, order, journal and limits are the driver's, so Dask is asked for one thing only: run this call once, somewhere.
"""

from __future__ import annotations

import os
import subprocess
import threading
from queue import SimpleQueue
from typing import Any

from fleet.errors import ConfigError, MemberLost
from fleet.fanout import call as calls
from fleet.fanout import failure, machine, remote
from fleet.fanout.backends import arrivals, own_cluster
from fleet.fanout.backends.protocol import BATCHES, PROCESSES, SENDS, Opening
from fleet.fanout.blame import not_picklable, packed_level
from fleet.fanout.call import Call, Outcome
from fleet.fanout.parcel import Packed, pack

ANSWER_S = 10  # within which an address must answer
ONE_TRY = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}  # repeating is the driver's
AHEAD = 2  # calls per thread of the cluster: Dask's round trip is milliseconds


class Dask:
    """A Client of the user's is used and left as it was; an address is connected to; else a cluster of processes is started."""

    name = "dask"
    claims = frozenset({BATCHES, PROCESSES, SENDS})

    def __init__(self, cluster: Any = None) -> None:
        try:
            import distributed
        except ImportError:
            fix = "pip install dask distributed"
            raise ConfigError("Dask is not installed", at='backend="dask"', fix=fix) from None
        self._distributed, self._given = distributed, cluster
        self._client: Any = None
        self._cluster: Any = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._outcomes: SimpleQueue[Outcome | None] = SimpleQueue()
        self._futures: dict[int, Any] = {}
        self._lock = threading.Lock()  # guards _futures: Dask's callbacks come on threads of its own

    def open(self, opening: Opening) -> None:
        self._opening = opening
        self._run = f"{os.getpid()}-{os.urandom(6).hex()}"
        self._programs = [packed_level(level).body for level in opening.levels]
        if isinstance(self._given, self._distributed.Client):
            self._client = self._given
        elif self._given is not None:
            self._client = self._connected(self._given)
        else:
            self._client = self._started(opening)
        threads = self._client.nthreads()
        if not threads:
            raise ConfigError("the Dask cluster has no workers", at="cluster=", fix="start workers, or scale the cluster")
        self._alone = max(threads.values()) == 1
        self._most = opening.workers or AHEAD * sum(threads.values())

    def _connected(self, where: Any) -> Any:
        try:
            return self._distributed.Client(where, timeout=ANSWER_S, set_as_default=False)
        except (OSError, ValueError) as error:
            what = f"the Dask cluster {where!r} did not answer within {ANSWER_S} s: {error}"
            fix = "see that its scheduler runs; without cluster= one is started here"
            raise ConfigError(what, at="cluster=", fix=fix) from error

    def _started(self, opening: Opening) -> Any:
        """Start a scheduler and workers as processes of their own, which need no ``__main__`` guard."""
        from distributed.deploy.subprocess import SubprocessCluster

        with own_cluster.environment(self._run, ONE_TRY):
            self._keeper = own_cluster.start_keeper(self._run)
            number = opening.workers or machine.usable_cpus()
            self._cluster = SubprocessCluster(n_workers=number, threads_per_worker=1, dashboard_address=None, silence_logs=50)
            client = self._distributed.Client(self._cluster, set_as_default=False)
            client.wait_for_workers(number, timeout=60)
        return client

    def room(self) -> int:
        with self._lock:
            return self._most - len(self._futures)

    def start(self, call: Call) -> None:
        try:
            body = call.item.body if type(call.item) is Packed else pack(call.item).body
        except Exception as error:  # noqa: BLE001  pickling runs the user's code
            wrong = not_picklable(call.item, error, what="the item", at=failure.member_text(call.path))
            with self._lock:
                self._futures[call.ticket] = None
            self._ended(call.ticket, Outcome(call.ticket, calls.ERROR, error=wrong))
            return
        about = (call.path, call.attempt, call.seed, self._opening.cpus, self._alone)
        key = f"fleet-{self._run}-{call.ticket}"
        future = self._client.submit(
            remote.run, self._run, call.level, self._programs[call.level], body, about, key=key, pure=False, retries=0
        )
        with self._lock:
            self._futures[call.ticket] = future
        future.add_done_callback(lambda done: self._done(call, done))

    def _done(self, call: Call, future: Any) -> None:
        """Turn what Dask says into an outcome, on a thread of Dask's."""
        try:
            state, body, seconds, said = future.result()
            outcome = Outcome(call.ticket, state, Packed(body) if body else None, seconds, worker="dask")
            if said is not None:
                outcome.error, outcome.traceback = failure.rebuilt(call.path, *said[:3]), said[3]
        except BaseException as error:  # noqa: BLE001  the engine's own: the member's come as answers
            member = failure.member_text(call.path)
            what = f"Dask lost {member}: {type(error).__name__}: {error}"
            lost = MemberLost(what, at=member, fix="see the logs of Dask's workers; lost_retries= repeats it")
            outcome = Outcome(call.ticket, calls.LOST, error=lost, worker="dask")
        self._ended(call.ticket, outcome)

    def _ended(self, ticket: int, outcome: Outcome) -> None:
        with self._lock:
            known = ticket in self._futures
            self._futures.pop(ticket, None)
        if known:
            self._outcomes.put(outcome)

    def wait(self, timeout_s: float | None) -> list[Outcome]:
        return arrivals.take(self._outcomes, timeout_s)

    def wake(self) -> None:
        self._outcomes.put(None)

    def stop(self) -> None:
        with self._lock:
            futures = [future for future in self._futures.values() if future is not None]
            self._futures.clear()
        if futures:
            self._client.cancel(futures, force=True)

    def close(self) -> None:
        if self._client is not None and self._client is not self._given:
            self._client.close()
        self._client = None
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None
        if self._keeper is not None:
            own_cluster.end(self._keeper)
            self._keeper = None
