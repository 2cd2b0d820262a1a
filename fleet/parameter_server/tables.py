"""A server's tables: what the messages of trainers do to rows. No socket in here; a trainer alone uses it in its own process.

Pushes of one trainer count once: each carries (trainer, incarnation, sequence), and the last one that counted is kept
here and saved with a snapshot, so that a retry is never applied twice and a restarted trainer is not taken for its past.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fleet.errors import ConfigError, TableError
from fleet.parameter_server import native, sections, sightings
from fleet.parameter_server.sightings import Sightings
from fleet.parameter_server.spec import NUM_SHARDS, TableSpec

Keys = NDArray[np.uint64]
Values = NDArray[np.float32]
FLOAT32_MAX = float(np.finfo(np.float32).max)


class Gradient(NamedTuple):
    """One table's part of a push: the gradient of unique keys, already weighted by the trainer's share of the batch."""

    table: int
    keys: Keys  # uint64[n]
    values: Values  # float32[n, dim]
    learning_rate: float
    sightings: Sightings | None = None  # of the keys: tables with row life
    dtype: str = "float32"  # of wire.DTYPES: how the values come over the wire


class Tables:
    """All tables of one server.

    Args:
        server: index of this server, for messages.
        world_size: number of trainers, all of which take part in a ``sync`` step.
        num_shards: shards that this server holds of every table.
    """

    def __init__(self, server: int, world_size: int, num_shards: int = NUM_SHARDS) -> None:
        self.server, self.world_size, self.num_shards = server, world_size, num_shards
        self.core = native.load()
        self._guard = threading.Lock()  # guards the three below
        self._numbers: dict[str, int] = {}
        self.specs: list[TableSpec] = []
        self.rows: list[Any] = []  # core.Table, by number
        self.steps: list[int] = []  # sync: steps in which a table took part, by number; Adam's bias correction counts these
        self.applied: dict[int, tuple[int, int]] = {}  # trainer -> (incarnation, last sequence that counted)
        self._turn: dict[int, threading.Lock] = {}  # trainer -> one push of it at a time, also over two connections

    def open(self, wanted: Mapping[str, Any]) -> int:
        """Return the number of the table of this spec; the first message that names a table makes it.

        Raises:
            TableError: the table exists with another spec.
        """
        spec = TableSpec.from_json(wanted)
        with self._guard:
            if spec.name not in self._numbers:
                rows = self._make(spec)  # before anything is noted: a spec that the core refuses leaves no trace
                self._numbers[spec.name] = len(self.specs)
                self.specs.append(spec)
                self.rows.append(rows)
                self.steps.append(0)
            number = self._numbers[spec.name]
        if self.specs[number] != spec:
            raise TableError(
                f"table {spec.name!r} exists with {self.specs[number].differs(spec)}",
                at=f"server {self.server}",
                fix="give every trainer the same model, optimizer and strategy; start new servers for another model",
            )
        return number

    def pull(self, table: int, keys: Keys, out: Values, create: bool) -> None:
        """Write the rows of ``keys`` to ``out``; keys without a row are made if ``create``, else read as their initial value."""
        self._table(table).pull(keys, out, create)

    def room_to_pull(self, table: int, keys: Keys) -> None:
        """Refuse, before anything is made or answered, rows that would exceed the server's memory limit.

        Raises:
            TableError: they would.
        """
        try:
            self._table(table).room_to_pull(keys)
        except MemoryError as error:
            raise self._full(table, error) from None

    def dim(self, table: int) -> int:
        """Return the floats of one key of a table."""
        self._table(table)
        return self.specs[table].dim

    def count_once(self, trainer: int, incarnation: int, sequence: int) -> PushTurn:
        """Return a context that says whether this push counts, and records it once it was done."""
        with self._guard:
            lock = self._turn.setdefault(trainer, threading.Lock())
        return PushTurn(self, lock, trainer, incarnation, sequence)

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Hold back every trainer's pushes, once those under way are applied: what is read inside is of one moment."""
        with self._guard:
            turns = [self._turn.setdefault(trainer, threading.Lock()) for trainer in range(self.world_size)]
        with contextlib.ExitStack() as held:
            for turn in turns:
                held.enter_context(turn)
            yield

    def check(self, gradient: Gradient, trainer: int) -> None:
        """Refuse a gradient that does not fit its table or holds NaN or infinity; nothing was changed.

        Raises:
            TableError: with the table and the count.
        """
        spec = self.specs[gradient.table] if gradient.table < len(self.specs) else None
        if spec is None or gradient.values.shape != (len(gradient.keys), spec.dim):
            raise TableError(f"a gradient of shape {gradient.values.shape} for table {gradient.table}", at=f"server {self.server}",
                             fix="push float32[num_keys, dim] to a table that was opened")  # fmt: skip
        if not abs(gradient.learning_rate) <= FLOAT32_MAX:  # NaN too
            raise TableError(f"learning rate {gradient.learning_rate} for table {spec.name!r} from trainer {trainer}",
                             at=f"server {self.server}", fix="give the optimizer a finite learning rate")  # fmt: skip
        if spec.optimizer == "ftrl" and np.float32(gradient.learning_rate) <= 0:
            fix = "let the schedule stay above 0, or use another row optimizer"
            what = f"learning rate {gradient.learning_rate} for table {spec.name!r}: ftrl divides by it"
            raise TableError(what, at=f"server {self.server}", fix=fix)
        sightings.check(gradient.sightings, spec.life.num_sightings, len(gradient.keys), spec.name, f"server {self.server}")
        bad = self.core.count_nonfinite(gradient.values.reshape(-1))
        if bad:
            raise self._not_finite(spec.name, bad, f"trainer {trainer}", gradient.dtype)

    def apply(self, gradient: Gradient, step: int, origin: str) -> None:
        """Move the rows by one step of the table's row optimizer.

        Raises:
            TableError: the gradient holds NaN or infinity; the table is as it was.
        """
        seen = [] if gradient.sightings is None else list(gradient.sightings)
        try:
            bad = self._table(gradient.table).push(gradient.keys, gradient.values, gradient.learning_rate, step, *seen)
        except ValueError as error:
            fix = "raise rows of its eviction by capacity, or take smaller batches"
            raise TableError(f"table {self.specs[gradient.table].name!r}: {error}", at=f"server {self.server}", fix=fix) from None
        except MemoryError as error:
            raise self._full(gradient.table, error) from None
        if bad:
            raise self._not_finite(self.specs[gradient.table].name, bad, origin, gradient.dtype)

    def apply_all(self, trainer: int, step: int, gradients: list[Gradient]) -> None:
        """Check all gradients of one trainer's push, then apply them: of a push that is refused nothing was applied.

        Raises:
            TableError: one does not fit its table or holds NaN or infinity.
        """
        for gradient in gradients:
            self.check(gradient, trainer)
        for gradient in gradients:
            self.apply(gradient, step, f"trainer {trainer}")

    def assign(self, table: int, keys: Keys, values: Values) -> None:
        """Set rows, with a fresh row state: an nn.Embedding's present weight.

        Raises:
            TableError: another shape, or weights that are not finite as the table stores them; nothing was changed.
        """
        if values.shape != (len(keys), self.dim(table)):
            raise TableError(f"rows of shape {values.shape} for table {self.specs[table].name!r}", at=f"server {self.server}",
                             fix=f"send float32[num_keys, {self.dim(table)}]")  # fmt: skip
        self._refuse_infinite(table, values)
        try:
            self._table(table).assign(keys, values)
        except MemoryError as error:
            raise self._full(table, error) from None

    def merged(self, gradients: list[Gradient]) -> Gradient:
        """Return the sum of several trainers' gradients of one table, in list order."""
        keys, values = self.core.merge_pushes([(g.keys, g.values) for g in gradients])
        seen = sightings.merged(self.core, [(g.keys, g.sightings) for g in gradients])
        return Gradient(gradients[0].table, keys, values, gradients[0].learning_rate, seen)

    def status(self) -> dict[str, Any]:
        """Return rows, bytes and the counters of row life of every table."""
        return {
            "server": self.server,
            "tables": {
                s.name: {"rows": r.size, "bytes": r.memory_bytes, **r.life_counts()}
                for s, r in zip(self.specs, self.rows, strict=True)
            },
        }

    def number(self, name: str) -> int:
        """Return the number of an open table."""
        if name not in self._numbers:
            raise TableError(f"there is no table {name!r}", at=f"server {self.server}", fix="open the table first")
        return self._numbers[name]

    def evict_when_full(self, evicts: bool) -> None:
        """Let tables with row life lose rows for new ones at the server's memory limit, or refuse the new ones."""
        for spec, rows in zip(self.specs, self.rows, strict=True):
            rows.set_evicts_when_full(evicts and spec.life.evicts)

    def _full(self, table: int, error: MemoryError) -> TableError:
        fix = ("raise --server_memory, start more servers, give embeddings an admission or eviction, or evict rows at the limit: "
               'parameter_server={"when_full": "evict"}')  # fmt: skip
        return TableError(f"table {self.specs[table].name!r} is full: {error}", at=f"server {self.server}", fix=fix)

    def _table(self, number: int) -> Any:
        if number >= len(self.rows):
            raise TableError(f"there is no table number {number}", at=f"server {self.server}", fix="open the table first")
        return self.rows[number]

    def _make(self, spec: TableSpec) -> Any:
        try:
            return spec.make(self.core, self.num_shards)
        except (ValueError, TypeError) as error:  # out of range, or no number of 64 bits
            fix = "send the fields in the ranges that docs/wire.md gives"
            raise TableError(f"no such table: {error}", at=f"table {spec.name!r}", fix=fix) from None

    def _refuse_infinite(self, table: int, values: Values) -> None:
        name, stored = self.specs[table].name, self.specs[table].weights
        bad = self.core.count_nonfinite(values.reshape(-1))
        if bad:
            fix = "find out where they come from: a checkpoint of a job that diverged, or weights that were never set"
            raise TableError(f"{bad} NaN or infinite weights for table {name!r}", at=f"server {self.server}", fix=fix)
        _, bad = sections.narrowed(self.core, values, stored)
        if bad:
            what = f"{bad} weights for table {name!r} are too large for the {stored} in which it stores them"
            fix = "give the table weights='bfloat16' or 'float32'" if stored == "float16" else "give the table weights='float32'"
            raise TableError(what, at=f"server {self.server}", fix=fix)

    def beyond_float16(self, table: int, count: int) -> TableError:
        """Return the error of a pull whose rows do not fit the float16 that was asked for."""
        what = f"{count} weights of table {self.specs[table].name!r} are not finite as float16, which ends at 65504"
        return TableError(what, at=f"server {self.server}", fix="set wire of parameter_server to bfloat16 or float32")

    def _not_finite(self, table: str, count: int, origin: str, dtype: str) -> TableError:
        what = f"{count} NaN or infinite gradient values for table {table!r} from {origin}; the table is unchanged"
        fix = "lower the learning rate, or find the batch: the loss was not finite either"
        if dtype == "float16":
            what = f"{what} (they came as float16, which ends at 65504)"
            fix = "set wire to bfloat16, or lower the loss scale or the learning rate, or find the batch if its loss was not finite"
        return TableError(what, at=f"server {self.server}", fix=fix)


class PushTurn:
    """``with`` it around one push: ``counts`` is False if this push was applied before; leaving it normally records it."""

    def __init__(self, tables: Tables, lock: threading.Lock, trainer: int, incarnation: int, sequence: int) -> None:
        self._tables, self._lock, self._trainer = tables, lock, trainer
        self._incarnation, self._sequence = incarnation, sequence
        self.counts = False

    def __enter__(self) -> PushTurn:
        self._lock.acquire()
        incarnation, sequence = self._tables.applied.get(self._trainer, (0, 0))
        if self._incarnation < incarnation:
            self._lock.release()
            raise ConfigError(
                f"trainer {self._trainer} was started again; this is an earlier life of it",
                at=f"server {self._tables.server}",
                fix="end the old process",
            )
        self.counts = self._incarnation > incarnation or self._sequence > sequence
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.counts:
            self._tables.applied[self._trainer] = (self._incarnation, self._sequence)
        self._lock.release()
