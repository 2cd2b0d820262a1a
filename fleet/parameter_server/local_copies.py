"""``geo``: a client whose pulls and pushes work on local copies of the rows, and which exchanges differences with the servers.

Everything here runs in the client's thread, in the order in which the trainer asked for it: the same run gives the same rows.
On the servers a table holds weights alone and adds what it is sent (as ``sgd`` with rate 1 does); row state is each trainer's own.

Where values travel in 16 bits, what rounding takes from a difference stays in the copy's difference and goes with a later exchange;
``flush`` and ``close`` send all of it, in float32: no movement is lost.
Source: error feedback, Seide et al., "1-bit stochastic gradient descent", Interspeech 2014.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet.errors import ConfigError, FleetError, SnapshotError, TableError
from fleet.parameter_server import sections
from fleet.parameter_server.client import Client, Pulled, RowGradient, Table
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.link import Link
from fleet.parameter_server.row_life import Life
from fleet.parameter_server.spec import TableSpec
from fleet.parameter_server.tables import Gradient, Keys, Values

Places = NDArray[np.uint32]
EXCHANGE_BYTES = 1 << 20  # of differences in one message: they stay in the cache from the subtraction to the socket


class Copy:
    """A trainer's copy of one table: rows with state that it has touched, and what the servers held when it fetched them.

    Memory: the touched rows twice. It stays between exchanges: what is forgotten is only which rows are fresh.

    A row's difference to what was fetched is what the servers do not have yet; also of rows that are not fresh.
    """

    def __init__(self, core: Any, spec: TableSpec, rate: float) -> None:
        self.rate = rate  # times the optimizer's learning rate
        self.rows = spec.make_copies(core)
        self.steps = 0  # in which the table took part, as Adam's correction counts them
        self._touched: list[Keys] = []  # of each step since the last exchange

    def renew(self) -> None:
        """Let every row be fetched anew at its next use; its state stays, and what the servers do not have of it."""
        self.rows.renew()

    def forget(self) -> None:
        """Let every row be fetched anew, and give up what the servers do not have; row state stays."""
        for keys in self._all():
            self.settle(keys)
        self._touched = []
        self.renew()

    def learn(self, gradient: RowGradient, learning_rate: float) -> tuple[int, Places]:
        """Take one step of the row optimizer; return how many gradient values are not finite (then nothing has changed).

        And the places of rows that are not fresh, and did not take the step yet: for :meth:`learn_late`.
        """
        self.steps += 1
        self._touched.append(gradient.keys)
        bad, stale = self.rows.push_fresh(gradient.keys, gradient.values, learning_rate * self.rate, self.steps)
        return bad, stale

    def learn_late(self, gradient: RowGradient, stale: Places, learning_rate: float) -> None:
        """Take the same step with rows that were fetched meanwhile."""
        self.rows.push_fresh(gradient.keys[stale], gradient.values[stale], learning_rate * self.rate, self.steps)

    def touched(self) -> Keys:
        """Return the keys of the rows touched since this was last asked, with repeats; forget which they were."""
        parts, self._touched = self._touched, []
        keys: Keys = np.concatenate(parts) if parts else np.empty(0, np.uint64)
        return keys

    def owed(self) -> Keys:
        """Return the keys of all rows that moved and the servers do not know; forget which were touched."""
        self._touched = []
        parts = [keys[(self.part(keys, 1, False) != 0).any(axis=1)] for keys in self._all()]
        return np.concatenate(parts) if parts else np.empty(0, np.uint64)

    def part(self, keys: Keys, parts: int, keep: bool) -> Values:
        """Return one part of how far rows moved, ``float32[n, dim]``, negated: a server's sgd subtracts.

        ``keep``: noted as the servers have it.
        """
        found = np.empty((len(keys), self.rows.dim), dtype=np.float32)
        self.rows.moves(keys, parts, keep, found)
        return found

    def keep(self, keys: Keys, difference: Values) -> None:
        """Note that the servers have added this to their rows; what is left of the difference stays."""
        self.rows.settle(keys, difference)

    def settle(self, keys: Keys) -> None:
        """Note that there is nothing of these rows that the servers do not have."""
        self.rows.settle(keys)

    def _all(self) -> Iterator[Keys]:
        """Yield the keys of all rows, in parts that stay in the cache."""
        keys, rows = self.rows.keys(), max(1, EXCHANGE_BYTES // (4 * self.rows.dim))
        yield from (keys[start : start + rows] for start in range(0, len(keys), rows))


class LocalCopies(Client):
    """A client for ``geo``.

    Args:
        k_steps: steps between two exchanges.
        world_size: number of trainers; a difference counts by one part in so many.
        dtype: of wire.DTYPES: fetched rows and exchanged differences on the wire.
    """

    def __init__(self, links: list[Link], mode: Mode, timeout_s: float, k_steps: int, world_size: int,
                 dtype: str = "float32") -> None:  # fmt: skip
        self._copies: dict[str, Copy] = {}
        self._k_steps, self._world_size = k_steps, world_size
        self._since = 0  # steps since the last exchange
        self._under_way: tuple[int, float] | None = None  # the server that owes the answer to a part, and since when
        super().__init__(links, mode, timeout_s, dtype)

    def open(self, spec: TableSpec, rate: float = 1.0) -> Table:
        """Return the table of this spec; the servers hold its weights, this trainer its row optimizer and state.

        Raises:
            ConfigError: rows of this table come and go: a trainer's copy would not know.
        """
        if spec.life != Life():
            fix = 'leave admission and eviction away, or take another consistency than "geo"'
            what = "geo works on copies of rows that stay, this table's rows come and go"
            raise ConfigError(what, at=f"table {spec.name!r}", fix=fix)
        try:
            self._copies[spec.name] = Copy(self._core, spec, rate)
        except ValueError as error:  # with its base, a row is longer here than on a server
            fix = "take a smaller dim, or another consistency"
            raise ConfigError(f"no copies of table {spec.name!r}: {error}", at="geo", fix=fix) from None
        return super().open(_weights_alone(spec))

    def push(self, gradients: list[tuple[Table, RowGradient]], learning_rate: float, steps: int = 1) -> None:
        """Queue one step on the local copies, and every ``k_steps`` an exchange behind it."""
        self.step += steps
        self._queue_push(lambda: self._learn(gradients, learning_rate))

    def flush(self) -> None:
        """Return once the servers have every difference so far; the copies are fetched anew afterwards."""
        self._submit(lambda: self._exchange(keep=False, whole=True)).result()
        super().flush()

    def assign(self, table: Table, keys: Keys, values: Values) -> None:
        """Set rows ``float32[n, dim]`` of unique keys on the servers; copies of the table are forgotten."""
        super().assign(table, keys, values)
        self._submit(self._copies[table.spec.name].forget).result()

    def restart(self, step: int) -> None:
        """Go on at ``step`` after the servers have taken up a snapshot; no copy is used any more."""
        super().restart(step)
        self._submit(self._begin_anew).result()

    def close(self) -> None:
        """Send what is left, then end."""
        self._pushes.append(self._submit(lambda: self._exchange(keep=False, whole=True)))
        super().close()

    def state(self) -> dict[str, Any]:
        """Return this trainer's row state, for a checkpoint: arrays by name."""
        return self._submit(self._state).result()

    def load_state(self, arrays: dict[str, Any]) -> None:
        """Take up row state that :meth:`state` returned.

        Raises:
            SnapshotError: it is of other tables or another row optimizer.
        """
        self._submit(lambda: self._load_state(arrays)).result()

    def _pull(self, wanted: list[tuple[Table, Keys]], create: bool, step: int) -> list[Pulled]:
        if not create and self._since and self._world_size > 1:
            self._exchange(keep=False)  # an evaluation sees the servers' rows: a copy alone ran ahead with its trainer
        found = self._sorted(wanted)
        tables = [table for table, _ in wanted]
        stale = [self._copies[t.spec.name].rows.pull_fresh(p.keys, p.rows) for t, p in zip(tables, found, strict=True)]
        self._fetch(tables, found, stale, create)
        return found

    def _fetch(self, tables: list[Table], found: list[Pulled], stale: list[Places], create: bool) -> None:
        """Ask the servers for the rows at these places; with ``create`` copies of them are kept, else they are only looked at."""
        if not any(map(len, stale)):
            return
        # Places lie in the order of the keys, which are grouped by server.
        all_stale = [p if len(at) == len(p.keys) else _at(p, at) for p, at in zip(found, stale, strict=True)]
        self._ask(list(zip(tables, all_stale, strict=True)), create, 0)
        for table, p, part, at in zip(tables, found, all_stale, stale, strict=True):
            if create:
                self._copies[table.spec.name].rows.take(part.keys, part.rows, table.dtype != "float32")
            if part is not p:
                p.rows[at] = part.rows

    def _learn(self, gradients: list[tuple[Table, RowGradient]], rate: float) -> None:
        for table, gradient in gradients:
            copy = self._copies[table.spec.name]
            bad, stale = copy.learn(gradient, rate)
            if bad:
                what = f"{bad} NaN or infinite gradient values for table {table.spec.name!r}; the table is unchanged"
                fix = "lower the learning rate, or find the batch: the loss was not finite either"
                self._failure = TableError(what, at="the trainer's local copy", fix=fix)
                raise self._failure
            if len(stale):  # rows that were looked up ahead of an exchange: the copies have been forgotten since
                rows = np.empty_like(gradient.values)
                pulled = Pulled(gradient.keys, np.empty(0, np.uint32), gradient.counts, rows)
                self._fetch([table], [pulled], [stale], create=True)
                copy.learn_late(gradient, stale, rate)
        self._since += 1
        if self._since == self._k_steps:
            self._exchange(keep=self._world_size == 1)

    def _exchange(self, keep: bool, whole: bool = False) -> None:
        """Send differences.

        Args:
            keep: go on with the copies, else rows are fetched anew at their next use.
            whole: send all there is in float32; else in the form of the wire, and what that takes away goes later.
        """
        self._since = 0
        for name, copy in self._copies.items():
            table = self.tables[name]
            touched = copy.owed() if table.dtype != "float32" and whole else copy.touched()
            keys, _, counts = table.unique.unique(touched, self.server_of_shard, self.num_servers)
            start, rows = 0, max(1, EXCHANGE_BYTES // (4 * table.spec.dim))
            for server, count in enumerate(counts.tolist()):
                for at in range(start, start + count, rows):
                    self._exchange_part(table, copy, server, keys[at : min(at + rows, start + count)], keep, whole)
                start += count
            self._end_send()
            if not keep:
                copy.renew()

    def _exchange_part(self, table: Table, copy: Copy, server: int, keys: Keys, keep: bool, whole: bool) -> None:
        """Send the differences of these keys of one server."""
        if table.dtype == "float32":
            self._send(table, server, keys, copy.part(keys, self._world_size, keep), "float32")
            return
        dtype = "float32" if whole else table.dtype
        moved, bad = sections.rounded(self._core, -copy.part(keys, self._world_size, False), dtype)
        if bad:
            self._end_send()
            what = f"{bad} differences of table {table.spec.name!r} are too large for {dtype} on the wire"
            self._failure = TableError(what, at="the trainer's local copy", fix="take bfloat16, or a lower learning rate")
            raise self._failure
        self._send(table, server, keys, -moved, dtype)  # a server's sgd subtracts
        if whole:
            copy.settle(keys)
        else:
            copy.keep(keys, moved * np.float32(self._world_size))

    def _send(self, table: Table, server: int, keys: Keys, values: Values, dtype: str) -> None:
        """Send one part; its answer is taken before the next one goes out, and meanwhile that is made."""
        self._end_send()
        self._sequence += 1
        gradient = Gradient(table.numbers[server], keys, values, table.rate, None, dtype)
        self._under_way = server, time.perf_counter()
        self._of_push(lambda: self._links[server].ask_push(self._sequence, self._sequence, [gradient]))

    def _end_send(self) -> None:
        if self._under_way is not None:
            (server, began), self._under_way = self._under_way, None
            self._of_push(self._links[server].take_push)
            self.round_trips.add(server, time.perf_counter() - began)
            for slow in self.round_trips.name_slow():
                self.on_slow(slow)

    def _of_push(self, work: Callable[[], None]) -> None:
        try:
            work()
        except FleetError as error:  # what the copies note as sent may not be there: nothing goes on from them
            self._under_way, self._failure = None, error
            raise

    def _begin_anew(self) -> None:
        self._since = 0
        for copy in self._copies.values():
            copy.forget()

    def _state(self) -> dict[str, Any]:
        arrays: dict[str, Any] = {}
        for name, copy in self._copies.items():
            keys = copy.rows.keys()
            arrays[f"{name}/steps"] = np.array(copy.steps)
            arrays[f"{name}/keys"], arrays[f"{name}/state"] = keys, copy.rows.read(keys)[2]
        return arrays

    def _load_state(self, arrays: dict[str, Any]) -> None:
        for name, copy in self._copies.items():
            try:
                steps, keys, state = (arrays[f"{name}/{part}"] for part in ("steps", "keys", "state"))
            except KeyError:
                raise SnapshotError(f"no row state of table {name!r}", at="geo", fix="load the checkpoint of this model") from None
            if state.shape != (len(keys), copy.rows.state_dim):
                what = f"row state of table {name!r} has shape {state.shape}, this row optimizer keeps {copy.rows.state_dim} floats"
                raise SnapshotError(what, at="geo", fix="resume with the optimizer of the checkpoint")
            copy.rows.assign(keys, np.zeros((len(keys), copy.rows.dim), np.float32), state)  # weights are fetched at the first use
            copy.settle(keys)
            copy.renew()
            copy.steps = int(steps)


def _at(pulled: Pulled, places: Places) -> Pulled:
    """Return the keys at some places, which ascend, with room for their rows."""
    ends = np.searchsorted(places, np.cumsum(pulled.counts))
    rows = np.empty((len(places), pulled.rows.shape[1]), dtype=np.float32)
    return Pulled(pulled.keys[places], np.empty(0, np.uint32), np.diff(ends, prepend=0), rows)


def _weights_alone(spec: TableSpec) -> TableSpec:
    return spec._replace(optimizer="sgd", hyper=(), state="float32")
