"""A server's side of saving: a cut between two pushes, then a thread that writes while trainers go on.

The cut waits for the pushes under way, a few milliseconds, and takes all rows of all tables at that moment. A delta takes
the rows that changed after its parent's cut; a table (or a server) that does not know that cut writes all of its rows
instead and says so, which any chain can hold.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

from fleet import disk
from fleet.errors import FleetError, SnapshotError
from fleet.parameter_server.spec import shard_range
from fleet.parameter_server.tables import Tables


class Known(NamedTuple):
    """How far a snapshot knows one table: rows of later epochs are not in it."""

    rows: Any  # core.Table
    restarts: int
    epoch: int


class Saving:
    """One snapshot under way on one server.

    Args:
        known: of each table by number, what the parent knows; None: write all rows.
        step_of: says which step was applied last.
    """

    def __init__(self, tables: Tables, num_servers: int, directory: str, known: list[Known | None],
                 step_of: Callable[[], int]) -> None:  # fmt: skip
        self._server, self._directory = tables.server, directory
        self._shards = shard_range(tables.server, num_servers)
        with tables.at_rest():
            self._specs, self._rows, self._steps = list(tables.specs), list(tables.rows), list(tables.steps)
            known = [k if k and k.rows is r else None for k, r in zip(known, self._rows, strict=False)]
            self._clocks = [rows.step for rows in self._rows]
            after = [k.epoch if k else 0 for k in known] + [0] * (len(self._rows) - len(known))
            self._applied = {str(t): list(v) for t, v in tables.applied.items()}
            self.step = step_of()
            self._cut = tables.core.Cut(self._rows, after)
            self._after = self._cut.after  # 0 where the keys that were evicted since are not known
        self.known = [Known(r, r.num_restarts, e) for r, e in zip(self._rows, self._cut.until, strict=True)]
        self._parts: dict[str, Any] | None = None
        self._failure: FleetError | None = None
        self._thread = threading.Thread(target=self._work, name="fleet-snapshot", daemon=True)  # joined by cancel and by outcome
        self._thread.start()

    def outcome(self) -> dict[str, Any] | None:
        """Return what the manifest needs, or None while it is being written.

        Raises:
            SnapshotError: it could not be written. Safe to retry with a new snapshot.
        """
        if self._thread.is_alive():
            return None
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return {"parts": self._parts, "applied": self._applied}

    def cancel(self) -> None:
        """Stop writing; what was written is left to who made the directory."""
        if self._thread.is_alive():
            self._cut.cancel()
        self._thread.join()

    def _work(self) -> None:
        try:
            self._parts = self._write()
        except FleetError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001 - handed to who asks for the outcome
            what = f"server {self._server} failed to write a snapshot: {error!r}"
            self._failure = SnapshotError(what, at=self._directory, fix="see the server's log; save again")
        finally:
            del self._cut

    def _write(self) -> dict[str, Any]:
        name_of = [quote(spec.name, safe="") for spec in self._specs]
        try:
            for name in name_of:
                os.makedirs(os.path.join(self._directory, name), exist_ok=True)
            stem = f"part-{self._server:04d}"
            written = self._cut.write([os.path.join(self._directory, name, stem) for name in name_of], *self._shards)
            for name in name_of:
                disk.sync_directory(os.path.join(self._directory, name))
            disk.sync_directory(self._directory)
        except OSError as error:
            what = f"server {self._server} cannot write a snapshot: {error.strerror}"
            fix = "free space or give another directory; the last snapshot is as it was"
            raise SnapshotError(what, at=str(error.filename or self._directory), fix=fix) from None
        except (ValueError, MemoryError) as error:
            fix = "see what is said; the last snapshot is as it was"
            raise SnapshotError(f"server {self._server} cannot write a snapshot: {error}", at=self._directory, fix=fix) from None
        parts = {}
        for spec, steps, clock, after, files in zip(self._specs, self._steps, self._clocks, self._after, written, strict=True):
            entries: dict[str, list[dict[str, Any]]] = {"rows": [], "removed": [], "waiting": []}
            for file in files:
                entries[file.pop("holds")].append({**file, "file": os.path.relpath(file.pop("path"), self._directory)})
            parts[spec.name] = {
                "server": self._server,
                "shards": list(self._shards),
                "complete": after == 0,
                "steps": steps,
                "clock": clock,
                "rows": sum(file["rows"] for file in entries["rows"]),
                "files": entries["rows"],
                "removed": next(iter(entries["removed"]), None),
                "waiting": next(iter(entries["waiting"]), None),
            }
        return parts


class Saver:
    """A server's snapshots, one at a time. Methods may be called by several connection threads."""

    def __init__(self, tables: Tables, num_servers: int) -> None:
        self._tables, self._num_servers = tables, num_servers
        self._guard = threading.Lock()  # guards the three below
        self._known: dict[str, list[Known]] = {}  # id of a snapshot -> how far it knows the tables
        self._id = ""
        self._saving: Saving | None = None

    def begin(
        self, directory: str, id: str, parent: str | None, delta: bool, step_of: Callable[[], int]
    ) -> dict[str, Any]:
        """Cut now and write in the background; a repeated request does nothing. Return the step of the cut.

        Args:
            parent: id of the newest snapshot that stands; others are forgotten.
            delta: write only what changed since.
            step_of: says which step was applied last.
        """
        with self._guard:
            if id != self._id:
                if self._saving is not None:
                    self._saving.cancel()  # whoever wanted it has gone
                self._id, self._saving = "", None
                known = self._known.get(parent or "", [])
                base = [k if delta and k.rows.num_restarts == k.restarts else None for k in known]
                saving = Saving(self._tables, self._num_servers, directory, list(base), step_of)
                self._known = {**({parent: known} if parent and known else {}), id: saving.known}
                for each in known if parent and known else saving.known:  # nobody will ask for what went before these
                    each.rows.forget_evicted(each.epoch)
                self._id, self._saving = id, saving
            assert self._saving is not None
            return {"step": self._saving.step}

    def outcome(self, id: str) -> dict[str, Any]:
        """Return ``{"done": False}`` while a snapshot is being written, then what the manifest needs.

        Raises:
            SnapshotError: it could not be written, or this server does not know it.
        """
        with self._guard:
            if id != self._id or self._saving is None:
                what = f"server {self._tables.server} is not writing snapshot {id}: it was started again, or another one was begun"
                raise SnapshotError(what, at=f"server {self._tables.server}", fix="save again")
            found = self._saving.outcome()
        return {"done": False} if found is None else {"done": True, **found}

    def cancel(self, id: str) -> None:
        """Stop writing a snapshot; unknown ones are none."""
        with self._guard:
            if id == self._id and self._saving is not None:
                self._saving.cancel()
                self._known.pop(id, None)

    def stop(self) -> None:
        """Stop writing whatever is under way: the job that wanted it is gone."""
        with self._guard:
            if self._saving is not None:
                self._saving.cancel()

    @contextlib.contextmanager
    def loading(self, id: str | None) -> Iterator[None]:
        """Hold back pushes while the tables become those of a snapshot.

        Args:
            id: deltas may continue it afterwards; None: they may not, for its base holds another optimizer's state.
        """
        with self._guard, self._tables.at_rest():  # in the order of begin
            yield
            if id is not None:
                tables = list(self._tables.rows)
                until = self._tables.core.Cut(tables, [0] * len(tables)).until
                self._known = {id: [Known(r, r.num_restarts, e) for r, e in zip(tables, until, strict=True)]}
