"""A server's side of loading: its shards of a chain of snapshots, newest first, into fresh tables.

A row that a newer snapshot has, or says was removed, is not taken from an older one; nothing is ever overwritten. So loading
twice gives the same tables, and the tables in use change only once all servers have read and verified their part.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fleet.errors import SnapshotError
from fleet.parameter_server.snapshot import manifest as manifests
from fleet.parameter_server.snapshot.manifest import Link
from fleet.parameter_server.spec import NUM_SHARDS, TableSpec, shard_range

MIN_ROW_BYTES = 10  # of any row in a file: its key and one weight of 16 bits
STATE_FIELDS = frozenset({"optimizer", "hyper"})  # that may differ if row state is dropped


class Staged(NamedTuple):
    """One server's part of a snapshot, read and verified."""

    id: str
    rows: list[Any]  # core.Table, by number
    steps: list[int]
    applied: dict[int, tuple[int, int]]
    step: int
    kept_state: bool


def stage(core: Any, specs: list[TableSpec], server: int, num_servers: int, asked: Any, keep_state: bool) -> Staged:
    """Read and verify a server's part of a chain: ``[{"directory", "manifest"}]``, newest first.

    Raises:
        SnapshotError: a file is missing or damaged, a table differs, or the chain does not reach back to all rows.
    """
    chain = []
    for link in asked:
        directory = str(link["directory"])
        if not os.path.isabs(directory):
            raise SnapshotError(f"{directory!r} is no absolute path", at="LOAD", fix="give the snapshot's absolute path")
        manifests.check(link["manifest"], os.path.join(directory, manifests.MANIFEST))
        chain.append(Link(directory, link["manifest"]))
    if not chain:
        raise SnapshotError("a chain of no snapshots", at="LOAD", fix="name at least one snapshot")
    newest = chain[0].manifest
    shards = shard_range(server, num_servers)
    rows = [read_table(core, spec, chain, shards, keep_state) for spec in specs]
    for spec, table in zip(specs, rows, strict=True):
        parts = newest["tables"][spec.name]["parts"]
        table.step = max(part["clock"] for part in parts if _overlap(part["shards"], shards))
    steps = [max(part["steps"] for part in newest["tables"][spec.name]["parts"]) for spec in specs]
    applied = manifests.applied_on(newest, server, num_servers)
    return Staged(str(newest["id"]), rows, steps, applied, int(newest["step"]), keep_state)


def read_table(core: Any, spec: TableSpec, chain: list[Link], shards: tuple[int, int], keep_state: bool = True) -> Any:
    """Return a fresh core.Table with the rows that a chain has in shards [low, high).

    Raises:
        SnapshotError: as :func:`stage`.
    """
    table = spec.make(core, shards[1] - shards[0])
    keep = np.zeros(NUM_SHARDS, dtype=bool)
    keep[slice(*shards)] = True
    load = core.Load(table, keep, keep_state)
    load.expect(_rows_of_complete_parts(spec.name, chain, keep))
    for age, link in enumerate(chain):
        if not keep.any():
            break
        load.next_snapshot()
        saved = link.manifest["tables"].get(spec.name)
        _check_fits(spec, saved, link.directory, keep_state)
        for part in saved["parts"]:
            low, high = part["shards"]
            if keep[low:high].any():
                _load_part(load, link.directory, part, newest=age == 0)
                if part["complete"]:
                    keep[low:high] = False
                    load.drop_shards(low, high)
    if keep.any():
        what = f"the snapshots hold only changes of table {spec.name!r}, not the rows that they changed"
        raise SnapshotError(what, at=chain[-1].directory, fix="load a chain that begins with a full snapshot")
    return table


def _rows_of_complete_parts(name: str, chain: list[Link], keep: NDArray[np.bool_]) -> int:
    """Return about how many rows of the shards in ``keep`` will come: for room, so a manifest that exaggerates is not believed."""
    missing, count = keep.copy(), 0
    for link in chain:
        for part in link.manifest["tables"].get(name, {"parts": []})["parts"]:
            low, high = part["shards"]
            if part["complete"] and missing[low:high].any():
                paths = [os.path.join(link.directory, file["file"]) for file in part["files"]]
                most = sum(os.path.getsize(path) for path in paths if os.path.isfile(path)) // MIN_ROW_BYTES
                count += min(part["rows"], most) * int(missing[low:high].sum()) // (high - low)
                missing[low:high] = False
    return count


def _check_fits(spec: TableSpec, saved: Mapping[str, Any] | None, directory: str, keep_state: bool) -> None:
    if saved is None:
        raise SnapshotError(f"the snapshot holds no table {spec.name!r}", at=directory, fix="load the snapshot of this model")
    old = TableSpec.from_json(saved["spec"])
    differing = {field for field, a, b in zip(spec._fields, old, spec, strict=True) if a != b}
    if not keep_state:
        differing -= STATE_FIELDS
    if differing:
        fix = "load it with the model, optimizer and strategy that it was saved with"
        if differing <= STATE_FIELDS:
            fix += ', or give up the row state: Checkpointer(row_state="drop")'
        raise SnapshotError(f"the snapshot's table {spec.name!r} has {old.differs(spec)}", at=directory, fix=fix)


def _overlap(a: Sequence[int], b: Sequence[int]) -> bool:
    return max(a[0], b[0]) < min(a[1], b[1])


def _load_part(load: Any, directory: str, part: Mapping[str, Any], newest: bool) -> None:
    steps = [(load.rows, file) for file in part["files"]]
    if part["removed"] is not None:
        steps.append((load.removed, part["removed"]))
    if part["waiting"] is not None and newest:  # each snapshot names all that wait
        steps.append((load.waiting, part["waiting"]))
    try:
        for take, file in steps:
            path = os.path.join(directory, file["file"])
            take(path, dict(file["checksums"]), tuple(part["shards"]), file["rows"])
    except (OSError, ValueError) as error:
        fix = "take the checkpoint before this one; copy the files again if they were copied"
        raise SnapshotError(f"cannot load a table: {error}", at=path, fix=fix) from None
