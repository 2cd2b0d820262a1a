"""What a server does for one request. ``server.py`` calls it with what came over a socket, ``link.py`` in the same process."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Mapping
from typing import Any

from fleet import __version__, logger
from fleet.errors import ConfigError, TableError
from fleet.parameter_server import consistency
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.ledger import Ledger
from fleet.parameter_server.snapshot.loading import Staged, stage
from fleet.parameter_server.snapshot.manifest import Link
from fleet.parameter_server.snapshot.saving import Saver
from fleet.parameter_server.spec import shard_range
from fleet.parameter_server.statistics import Statistics
from fleet.parameter_server.tables import Gradient, Keys, Tables, Values


class Service:
    """One server: its tables and the consistency under which trainers use them."""

    def __init__(self, server: int, num_servers: int, world_size: int) -> None:
        self.server, self.num_servers = server, num_servers
        self._guard = threading.Lock()  # guards the choice of the consistency
        self.ledger: Ledger | None = None  # kept where a loss is answered by carrying on
        self._begin(world_size)

    def _begin(self, world_size: int) -> None:
        low, high = shard_range(self.server, self.num_servers)
        self.tables = Tables(self.server, world_size, high - low)
        self.statistics = Statistics(world_size)
        self.incarnations: dict[int, int] = {}  # of the trainers that are connected, where that is known
        self._mode: tuple[Mode, float] | None = None
        self._consistency: consistency.Consistency | None = None
        self._saver = Saver(self.tables, self.num_servers)
        self._staged: Staged | None = None  # a snapshot that was read and is not in force yet
        self._life = secrets.token_hex(8)  # tells these rows from others in their place

    def clear(self) -> None:
        """Forget everything: another job begins."""
        self._saver.stop()
        self._begin(self.tables.world_size)

    @property
    def consistency(self) -> consistency.Consistency:
        """Return the consistency that the first trainer chose."""
        if self._consistency is None:
            raise ConfigError("no table was opened yet", at=f"server {self.server}", fix="open a table first")
        return self._consistency

    @property
    def about(self) -> dict[str, Any]:
        """Return what a server tells of itself when a trainer connects."""
        about = {"server": self.server, "num_servers": self.num_servers, "world_size": self.tables.world_size}
        return {**about, "life": self._life, "fleet": __version__}

    def open(self, spec: Mapping[str, Any], mode: Mode, timeout_s: float) -> int:
        """Return the number of a table; the first call also sets the consistency.

        Raises:
            ConfigError: another trainer chose another consistency.
            TableError: another trainer opened the table with another spec.
        """
        with self._guard:
            if self._consistency is None:
                self._consistency = consistency.make(mode, self.tables, timeout_s)
                self._mode = (mode, timeout_s)
        if self._mode != (mode, timeout_s):
            raise ConfigError(
                f"this job runs {_said(self._mode)}, a trainer asks for {_said((mode, timeout_s))}",
                at=f"server {self.server}",
                fix="give every trainer the same strategy",
            )
        number = self.tables.open(spec)
        self.tables.evict_when_full(mode.when_full == "evict")
        return number

    def pull(self, trainer: int, step: int, create: bool, wanted: list[tuple[int, Keys, Values]]) -> None:
        """Write rows of several tables to the given arrays, once the consistency lets this trainer go beyond ``step`` steps."""
        self.wait(trainer, step)
        if create:
            self.room_to_pull([(table, keys) for table, keys, _ in wanted])
        with self.statistics.pulling([(table, len(keys)) for table, keys, _ in wanted]):
            for table, keys, out in wanted:
                self.tables.pull(table, keys, out, create)

    def room_to_pull(self, wanted: list[tuple[int, Keys]]) -> None:
        """Refuse a pull whose new rows would exceed the server's memory limit, before anything is made."""
        for table, keys in wanted:
            self.tables.room_to_pull(table, keys)

    def wait(self, trainer: int, step: int) -> None:
        """Return once the consistency lets this trainer go beyond ``step`` steps."""
        began = self.statistics.waiting(True)
        try:
            self.consistency.wait(trainer, step)
        finally:
            self.statistics.waited(trainer, self.statistics.waiting(False) - began)

    def push(self, trainer: int, incarnation: int, sequence: int, step: int, gradients: list[Gradient]) -> None:
        """Take one trainer's gradients of a step; a repeated push does nothing.

        Raises:
            TableError: NaN, infinity, another shape or table, or another step than the trainer's next; nothing was changed.
        """
        _check_counters(sequence, step)
        with self.tables.count_once(trainer, incarnation, sequence) as turn:
            if turn.counts:
                with self.statistics.pushing([(g.table, len(g.keys)) for g in gradients]):
                    self.consistency.push(trainer, step, gradients)
                if self.ledger is not None:
                    self.ledger.note(trainer, incarnation, sequence, sum(len(g.keys) for g in gradients))
                slow = self.statistics.pushed(trainer, step)
                if slow and self.server == 0:  # every server sees it; one says it
                    logger.warning(slow)

    def assign(self, trainer: int, incarnation: int, sequence: int, parts: list[tuple[int, Keys, Values]]) -> None:
        """Set rows of tables; a repeated message does nothing."""
        _check_counters(sequence)
        with self.tables.count_once(trainer, incarnation, sequence) as turn:
            if turn.counts:
                for table, keys, values in parts:
                    self.tables.assign(table, keys, values)

    def save(self, trainer: int, ask: Mapping[str, Any], step: int) -> dict[str, Any]:
        """Begin a snapshot once ``step`` steps are applied (with a directory), ask for its outcome, or cancel it.

        Raises:
            SnapshotError: it could not be written. Safe to retry with a new one.
        """
        snapshot = str(ask["snapshot"])
        if "directory" in ask:
            directory, parent = ask["directory"], ask["parent"]
            if not isinstance(directory, str) or not os.path.isabs(directory):  # relative to wherever the server was started?
                raise ValueError(f"directory must be an absolute path, got {directory!r}")
            self.consistency.wait(trainer, step)
            delta = bool(ask["delta"])
            parent = None if parent is None else str(parent)
            return self._saver.begin(directory, snapshot, parent, delta, lambda: self.consistency.step)
        if ask.get("cancel"):
            self._saver.cancel(snapshot)
            return {}
        return self._saver.outcome(snapshot)

    def load(self, ask: Mapping[str, Any]) -> dict[str, int]:
        """Read and verify this server's part of a snapshot; return rows per table. Nothing changes before :meth:`end_load`.

        Raises:
            SnapshotError: a file is missing or damaged, or a table differs.
        """
        self._staged = None
        specs = list(self.tables.specs)
        staged = stage(self.tables.core, specs, self.server, self.num_servers, ask["chain"], bool(ask["keep_state"]))
        # A life later than the one that speaks here: the clock was set back since. It is no earlier life for all that.
        applied = {t: v for t, v in staged.applied.items() if v[0] <= self.incarnations.get(t, v[0])}
        self._staged = staged._replace(applied=applied)
        return {spec.name: table.size for spec, table in zip(specs, staged.rows, strict=True)}

    def end_load(self, apply: bool) -> None:
        """Put what was read in force, once every server has read its part, or forget it. Without a part read it does nothing."""
        staged, self._staged = self._staged, None
        if staged is not None and apply:
            with self._saver.loading(staged.id if staged.kept_state else None):
                self.tables.rows[:], self.tables.steps[:], self.tables.applied = staged.rows, staged.steps, staged.applied
                if self._consistency is not None:
                    self._consistency.restart(staged.step)

    def resume(self, chain: list[Link]) -> None:
        """Make a snapshot's tables and take up this server's part, before any trainer has spoken.

        Args:
            chain: the snapshot and those that it continues, newest first.

        Raises:
            SnapshotError: a file is missing or damaged.
        """
        for table in chain[0].manifest["tables"].values():
            self.tables.open(table["spec"])
        self.load({"chain": [link._asdict() for link in chain], "keep_state": True})
        self.end_load(apply=True)

    def shrink(self, trainer: int, below: float, step: int) -> dict[str, int]:
        """Evict what has expired, and rows with a score below ``below``, once ``step`` steps are applied; return rows per table."""
        if not 0 <= below < float("inf"):
            raise TableError(f"rows with a score below {below}", at="SHRINK", fix="give a finite number, 0 or more")
        self.consistency.wait(trainer, step)
        specs = zip(self.tables.specs, self.tables.rows, strict=True)
        return {spec.name: rows.shrink(below) for spec, rows in specs if spec.life.evicts}

    def status(self) -> dict[str, Any]:
        """Return what docs/statistics.md lists: tables and their counters, the step, staleness, latencies, trainers."""
        mode, found, total = self._consistency, self.tables.status(), self.statistics.total()
        for number, counters in enumerate(found["tables"].values()):
            counters.update(self.statistics.tables(total, number))
        told = {"step": mode.step if mode else 0, "staleness": mode.largest_staleness if mode else None}
        return {**found, **told, **self.statistics.status()}


def _said(mode: tuple[Mode, float] | None) -> str:
    assert mode is not None  # the lock above set it
    bound = f" with a staleness of {mode[0].staleness}" if mode[0].name == "bounded" else ""
    bound += ", when_full evict" if mode[0].when_full == "evict" else ""
    return f"{mode[0].name}{bound} and timeout_s {mode[1]:g}"


def _check_counters(*counters: int) -> None:
    for counter in counters:
        if not 1 <= counter < 1 << 63:
            fix = "count sequences and steps from 1"
            raise TableError(f"a sequence or step of {counter}", at="PUSH or ASSIGN", fix=fix)
