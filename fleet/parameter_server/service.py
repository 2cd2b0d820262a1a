"""What a server does for one request. ``server.py`` calls it with what came over a socket, ``link.py`` in the same process."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from fleet import __version__, disk, logger
from fleet.errors import ConfigError, SnapshotError, TableError
from fleet.parameter_server import consistency
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.ledger import Ledger
from fleet.parameter_server.spec import NUM_SHARDS, TableSpec
from fleet.parameter_server.statistics import Statistics
from fleet.parameter_server.tables import Gradient, Keys, Tables, Values


class Staged(NamedTuple):
    """One server's part of a snapshot, read and verified."""

    rows: list[Any]  # core.Table, by number
    steps: list[int]
    applied: dict[int, tuple[int, int]]
    step: int


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
        self._staged: Staged | None = None  # a snapshot that was read and is not in force yet
        self._life = secrets.token_hex(8)  # tells these rows from others in their place

    def clear(self) -> None:
        """Forget everything: another job begins."""
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

    def save(self, trainer: int, directory: str, step: int) -> dict[str, Any]:
        """Write this server's part of every table below ``directory``; return what the manifest needs.

        Raises:
            SnapshotError: the disk refused; no partial file of this server is left. Safe to retry.
        """
        self.consistency.wait(trainer, step)
        low, high = shard_range(self.server, self.num_servers)
        files = {}
        for spec, rows, steps in zip(self.tables.specs, self.tables.rows, self.tables.steps, strict=True):
            file = f"{quote(spec.name, safe='')}/part-{self.server:04d}-of-{self.num_servers:04d}.safetensors"
            path = os.path.join(directory, file)
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                written = rows.save(path, low, high)
                disk.sync_directory(os.path.dirname(path))
            except OSError as error:
                raise SnapshotError(
                    f"server {self.server} cannot write table {spec.name!r}: {error.strerror}",
                    at=path,
                    fix="free space or give another directory; the last snapshot is as it was",
                ) from None
            files[spec.name] = {"file": file, "shards": [low, high], **written, "steps": steps}
        return {"files": files, "applied": {str(t): list(v) for t, v in self.tables.applied.items()}}

    def load(self, directory: str, manifest: Mapping[str, Any]) -> dict[str, int]:
        """Read and verify this server's part of a snapshot; return rows per table. Nothing changes before :meth:`end_load`.

        Raises:
            SnapshotError: a file is missing or damaged, or a table differs.
        """
        self._staged = None
        low, high = shard_range(self.server, self.num_servers)
        keep = np.zeros(NUM_SHARDS, dtype=bool)
        keep[low:high] = True
        fresh = []
        for spec in self.tables.specs:
            self._check_fits(spec, manifest["tables"].get(spec.name), directory)
            table = spec.make(self.tables.core, high - low)
            steps = max(f["steps"] for f in manifest["tables"][spec.name]["files"])
            table.step = steps or int(manifest["step"])  # before its rows: they count as pushed to at this step
            for part in manifest["tables"][spec.name]["files"]:
                if part["shards"][0] < high and low < part["shards"][1]:
                    _load_part(table, os.path.join(directory, part["file"]), keep, part["checksums"])
            fresh.append(table)
        steps_of = [max(f["steps"] for f in manifest["tables"][s.name]["files"]) for s in self.tables.specs]
        applied = {int(t): (int(v[0]), int(v[1])) for t, v in manifest["applied"].items()}
        # A life later than the one that speaks here: the clock was set back since. It is no earlier life for all that.
        applied = {t: v for t, v in applied.items() if v[0] <= self.incarnations.get(t, v[0])}
        self._staged = Staged(fresh, steps_of, applied, int(manifest["step"]))
        return {spec.name: table.size for spec, table in zip(self.tables.specs, fresh, strict=True)}

    def end_load(self, apply: bool) -> None:
        """Put what was read in force, once every server has read its part, or forget it. Without a part read it does nothing."""
        staged, self._staged = self._staged, None
        if staged is not None and apply:
            self.tables.rows[:], self.tables.steps[:], self.tables.applied = staged.rows, staged.steps, staged.applied
            if self._consistency is not None:
                self._consistency.restart(staged.step)

    def resume(self, directory: str, manifest: Mapping[str, Any]) -> None:
        """Make a snapshot's tables and take up this server's part, before any trainer has spoken.

        Raises:
            SnapshotError: a file is missing or damaged.
        """
        for table in manifest["tables"].values():
            self.tables.open(table["spec"])
        self.load(directory, manifest)
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

    def _check_fits(self, spec: TableSpec, saved: Mapping[str, Any] | None, directory: str) -> None:
        if saved is None:
            raise SnapshotError(f"the snapshot holds no table {spec.name!r}", at=directory, fix="load the snapshot of this model")
        old = TableSpec.from_json(saved["spec"])
        if old != spec:
            raise SnapshotError(
                f"the snapshot's table {spec.name!r} has {old.differs(spec)}",
                at=directory,
                fix="load it with the model, optimizer and strategy that it was saved with",
            )


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


def shard_range(server: int, num_servers: int) -> tuple[int, int]:
    """Return the shards [low, high) that a server holds."""
    return server * NUM_SHARDS // num_servers, (server + 1) * NUM_SHARDS // num_servers


def _load_part(table: Any, path: str, keep: Any, checksums: Mapping[str, int]) -> None:
    try:
        table.load(path, keep, dict(checksums))
    except (OSError, ValueError) as error:
        fix = "take the checkpoint before this one; copy the files again if they were copied"
        raise SnapshotError(f"cannot load a table: {error}", at=path, fix=fix) from None

