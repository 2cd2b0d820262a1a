"""A trainer's client: pulls rows from all servers and pushes gradients to them, in one background thread.

The thread owns the links. What main asks for is a queue of jobs done in order, so a pull that is queued behind a push sees
it. Sockets and kernels release the GIL, so the thread costs the step almost nothing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fleet import logger, timeline
from fleet.errors import ConfigError, FleetError, PeerLost
from fleet.parameter_server import native, wire
from fleet.parameter_server.answer import Answer
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.link import Link
from fleet.parameter_server.sightings import Sightings
from fleet.parameter_server.spec import NUM_SHARDS, TableSpec, shard_range
from fleet.parameter_server.statistics import RoundTrips
from fleet.parameter_server.tables import Gradient, Keys, Values

Result = TypeVar("Result")
FRAME_ROWS_BYTES = wire.MAX_BODY_BYTES // 8  # of one ASSIGN or bulk pull: bounds the memory of both sides


class Table:
    """One table as a trainer sees it."""

    def __init__(self, spec: TableSpec, numbers: list[int], unique: Any, rate: float = 1.0, dtype: str = "float32") -> None:
        self.spec = spec
        self.numbers = numbers  # its number on each server
        self.unique = unique  # core.Unique, used by the client's thread only
        self.rate = rate  # times the optimizer's learning rate
        self.dtype = dtype  # of wire.DTYPES: its rows and gradients on the wire


class Pulled(NamedTuple):
    """The rows of a batch: ``rows[inverse[i]]`` is the row of the i-th id."""

    keys: Keys  # uint64[m], grouped by server
    inverse: NDArray[np.uint32]  # uint32[n]
    counts: NDArray[np.int64]  # keys of each server
    rows: Values  # float32[m, dim]
    is_part: bool = False  # one field's of a batch: other fields' keys are here too


class RowGradient(NamedTuple):
    """The gradient of a batch's unique keys, weighted by the trainer's share of the global batch."""

    keys: Keys
    counts: NDArray[np.int64]
    values: Values
    sightings: Sightings | None = None  # tables with row life


class Client:
    """Speaks to all servers of a job.

    Args:
        links: one per server, in the servers' order.
        mode: the consistency, as the servers are told.
        timeout_s: told to the servers: how long a step waits for a late trainer.
        dtype: of wire.DTYPES: pulled rows and pushed gradients on the wire.
    """

    def __init__(self, links: list[Link], mode: Mode, timeout_s: float, dtype: str = "float32") -> None:
        self._core = native.load()
        self._links, self.mode, self._timeout_s, self._dtype = links, mode, timeout_s, dtype
        ranges = [shard_range(s, len(links)) for s in range(len(links))]
        self.server_of_shard = np.repeat(np.arange(len(links), dtype=np.uint16), [high - low for low, high in ranges])
        assert len(self.server_of_shard) == NUM_SHARDS
        self.num_servers = len(links)
        self.tables: dict[str, Table] = {}
        self.round_trips = RoundTrips(len(links))  # of pushes; written by the thread
        self.on_slow: Callable[[str], None] = logger.warning  # told once of a server that is slower than the others
        self.step = 0  # of this trainer, as its pushes say
        self._sequence = 0
        self._failure: FleetError | None = None  # written and read by the thread
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._pushes: list[Answer[None]] = []  # under way
        self._thread = threading.Thread(target=self._work, name="fleet-client", daemon=True)  # joined by close
        self._thread.start()

    def open(self, spec: TableSpec, rate: float = 1.0) -> Table:
        """Return the table of this spec, made on the servers if it is not there yet.

        Args:
            rate: the table's own factor of the learning rate.

        Raises:
            TableError, ConfigError: another trainer opened it differently.
        """
        numbers = self._run(lambda: [link.open(spec.to_json(), self.mode, self._timeout_s) for link in self._links])
        self.tables[spec.name] = Table(spec, numbers, self._core.Unique(spec.salt), rate, self._dtype)
        return self.tables[spec.name]

    def pull(self, wanted: list[tuple[Table, Keys]], create: bool, ahead: int = 0) -> Answer[list[Pulled]]:
        """Ask for the rows of the ids of several tables, in one message a server.

        Args:
            wanted: per table ``uint64[n]``, with repeats.
            create: make missing rows; else they read as their initial value.
            ahead: steps that this trainer will take before it uses the rows; ``bounded`` counts them.
        """
        # Who only looks has no step to take: a bound keeps trainers together, not readers from reading.
        waits = self.mode.in_order or (self.mode.counts_steps and create)
        step = self.step + ahead if waits else 0
        return self._submit(lambda: self._pull(wanted, create, step))

    def push(self, gradients: list[tuple[Table, RowGradient]], learning_rate: float, steps: int = 1) -> None:
        """Queue this trainer's gradients; returns before they arrive.

        Args:
            steps: that this trainer took since its last push: 1, or with half_async several, or none.

        Raises:
            PeerLost, TableError: an earlier push failed; the job cannot go on.
        """
        self.step += steps
        self._sequence += 1
        step, sequence = self.step, self._sequence
        self._queue_push(lambda: self._push(gradients, learning_rate, step, sequence))

    def restart(self, step: int) -> None:
        """Go on at ``step`` after the servers have taken up a snapshot."""
        self.step = step

    def flush(self) -> None:
        """Return once every push so far was taken by its server; raises what went wrong."""
        pushes, self._pushes = self._pushes, []
        for push in pushes:
            push.result()
        self._run(lambda: None)

    def assign(self, table: Table, keys: Keys, values: Values) -> None:
        """Set rows ``float32[n, dim]`` of unique keys, in frames of bounded size."""
        rows = max(1, FRAME_ROWS_BYTES // (4 * table.spec.dim + 8))
        for start in range(0, len(keys), rows):
            part, weights = keys[start : start + rows], values[start : start + rows]
            self._run(lambda part=part, weights=weights: self._assign(table, part, weights))  # type: ignore[misc]

    def read(self, table: Table, keys: Keys) -> Values:
        """Return the rows ``float32[n, dim]`` of keys to the last bit, making none, after all pushes so far."""
        self.flush()
        exact = Table(table.spec, table.numbers, table.unique, table.rate)
        out = np.empty((len(keys), table.spec.dim), dtype=np.float32)
        rows = max(1, FRAME_ROWS_BYTES // (4 * table.spec.dim + 8))
        for start in range(0, len(keys), rows):
            (pulled,) = self.pull([(exact, keys[start : start + rows])], create=False).result()
            self._core.expand(pulled.rows, pulled.inverse, out[start : start + rows])
        return out

    def save(self, ask: dict[str, Any]) -> list[dict[str, Any]]:
        """Let every server cut a snapshot after all pushes so far, and begin to write it; return their answers."""
        self.flush()
        step = self.step if self.mode.in_order else 0
        return self._run(lambda: [link.save(ask, step) for link in self._links])

    @property
    def lives(self) -> list[str]:
        """Return which life of each server this client speaks with: another one begins when a server is started again."""
        return [link.life for link in self._links]

    def save_outcome(self, snapshot: str) -> list[dict[str, Any]]:
        """Return how far every server has come with a snapshot. Any thread may ask."""
        return self._run(lambda: [link.save({"snapshot": snapshot}, 0) for link in self._links])

    def cancel_save(self, snapshot: str) -> None:
        """Let every server stop writing a snapshot."""
        self._run(lambda: [link.save({"snapshot": snapshot, "cancel": True}, 0) for link in self._links])

    def load(self, chain: list[dict[str, Any]], keep_state: bool) -> list[dict[str, int]]:
        """Let every server replace its rows by a snapshot's, once all have verified their part; return rows per table and server.

        Raises:
            SnapshotError: a part is missing or damaged, or a table differs; no server changed a row.
        """
        self.flush()
        return self._run(lambda: self._load({"chain": chain, "keep_state": keep_state}))

    def shrink(self, below: float) -> int:
        """Let every server evict what has expired, and rows with a score below ``below``; return how many rows went."""
        self.flush()
        step = self.step if self.mode.in_order else 0
        return sum(sum(found.values()) for found in self._run(lambda: [link.shrink(below, step) for link in self._links]))

    def status(self) -> list[dict[str, Any]]:
        """Return what every server counts: docs/statistics.md."""
        return self._run(lambda: [link.status() for link in self._links])

    def close(self) -> None:
        """Finish what is queued, say that this trainer has ended, join the thread."""
        self._jobs.put(self._close_links)
        self._jobs.put(None)
        self._thread.join(10)
        for push in self._pushes:  # what no later call could report
            if push.done() and (error := push.exception()):
                logger.warning(f"a push failed, and the script ended before it was told: {error}")
                break

    def forget(self) -> None:
        """In a forked child: let go of the parent's sockets."""
        for link in self._links:
            link.forget()

    def _queue_push(self, work: Callable[[], None]) -> None:
        for done in [p for p in self._pushes if p.done()]:
            self._pushes.remove(done)
            done.result()
        while len(self._pushes) > 1:  # a trainer may be two pushes ahead of its servers, not more
            self._pushes.pop(0).result()
        self._pushes.append(self._submit(work))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _submit(self, work: Callable[[], Result]) -> Answer[Result]:
        answer: Answer[Result] = Answer()

        def job() -> None:
            try:
                if self._failure is not None:
                    raise self._failure
                answer.set_result(work())
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the answer
                if isinstance(error, PeerLost):  # its link is broken for good: everything after fails alike
                    self._failure = self._failure or error
                answer.set_exception(error)

        if not self._thread.is_alive():
            raise ConfigError("the parameter server's client is closed", at="fleet.shutdown()", fix="use tables before shutdown")
        self._jobs.put(job)
        return answer

    def _close_links(self) -> None:
        for link in self._links:
            link.close()

    def _run(self, work: Callable[[], Result]) -> Result:
        return self._submit(work).result()

    def _pull(self, wanted: list[tuple[Table, Keys]], create: bool, step: int) -> list[Pulled]:
        found = self._sorted(wanted)
        self._ask([(table, pulled) for (table, _), pulled in zip(wanted, found, strict=True)], create, step)
        return found

    def _sorted(self, wanted: list[tuple[Table, Keys]]) -> list[Pulled]:
        """Return the keys of ids without repeats, with room for their rows."""
        found = self._core.unique_all([(table.unique, ids) for table, ids in wanted], self.server_of_shard, len(self._links))
        return [
            Pulled(keys, inverse, counts, np.empty((len(keys), table.spec.dim), dtype=np.float32))
            for (table, _), (keys, inverse, counts) in zip(wanted, found, strict=True)
        ]

    def _ask(self, wanted: list[tuple[Table, Pulled]], create: bool, step: int) -> None:
        """Ask the servers for the rows of keys that are grouped by server, and wait for them."""
        ends = [list(accumulate(p.counts.tolist())) for _, p in wanted]
        parts = [
            [(slice(int(e[s] - p.counts[s]), int(e[s])), t, p) for (t, p), e in zip(wanted, ends, strict=True)]
            for s in range(len(self._links))
        ]
        began = timeline.now()
        for server, link in enumerate(self._links):
            link.ask_pull(step, create, [(t.numbers[server], t.spec.dim, p.keys[cut], t.dtype) for cut, t, p in parts[server]])
        refused: list[FleetError] = []
        for server, link in enumerate(self._links):
            try:
                link.take_pull([p.rows[cut] for cut, _, p in parts[server]])
            except PeerLost:
                raise
            except FleetError as error:  # take the others' answers all the same: unread, they would be taken for the next ones
                refused.append(error)
        timeline.mark("send", "pull", began)
        if refused:
            raise refused[0]

    def _push(self, gradients: list[tuple[Table, RowGradient]], rate: float, step: int, sequence: int,
              dtype: str | None = None) -> None:  # fmt: skip
        start = timeline.now()
        ends = [list(accumulate(g.counts.tolist())) for _, g in gradients]
        for server, link in enumerate(self._links):
            parts = []
            for (table, g), end in zip(gradients, ends, strict=True):
                cut = slice(int(end[server] - g.counts[server]), int(end[server]))
                if cut.stop > cut.start or self.mode.in_order:  # there a table's step counts on every server
                    own = float(np.float32(rate) * np.float32(table.rate))  # as Paddle computes it
                    seen = None if g.sightings is None else np.ascontiguousarray(g.sightings[:, cut])
                    parts.append(Gradient(table.numbers[server], g.keys[cut], g.values[cut], own, seen, dtype or table.dtype))
            if parts or self.mode.counts_steps:  # an empty push says that this trainer is done with the step
                began = time.perf_counter()
                try:
                    link.ask_push(sequence, step, parts)
                    link.take_push()
                except FleetError as error:  # a step that lacks a push: whatever is pulled behind it would be wrong, or never come
                    self._failure = error
                    raise
                self.round_trips.add(server, time.perf_counter() - began)
        timeline.mark("send", "push", start)
        for slow in self.round_trips.name_slow():
            self.on_slow(slow)

    def _load(self, ask: dict[str, Any]) -> list[dict[str, int]]:
        try:
            found = [link.load(ask) for link in self._links]
        except PeerLost:
            raise
        except FleetError:
            for link in self._links:
                link.end_load(apply=False)
            raise
        for link in self._links:
            link.end_load(apply=True)
        return found

    def _assign(self, table: Table, keys: Keys, values: Values) -> None:
        ordered, inverse, counts = table.unique.unique(keys, self.server_of_shard, len(self._links))
        if len(ordered) != len(keys):
            raise ConfigError("a key is assigned twice in one call", at=f"table {table.spec.name!r}", fix="give unique keys")
        by_key = np.empty_like(values)
        by_key[inverse] = values
        start = 0
        for server, link in enumerate(self._links):
            stop = start + int(counts[server])
            self._sequence += 1
            link.assign(self._sequence, table.numbers[server], ordered[start:stop], by_key[start:stop])
            start = stop
