"""The rows of a chain of snapshots, a file at a time: each key once, as its newest snapshot has it.

These are the rows that loading takes, without tables.

Memory: a file of rows, and 8 bytes for each row of the deltas in the shards that are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet.errors import SnapshotError
from fleet.parameter_server.freeze import read_safetensors
from fleet.parameter_server.snapshot.manifest import Link
from fleet.parameter_server.spec import NUM_SHARDS, TableSpec

Tensors = dict[str, NDArray[Any]]  # by name, in the order of COLUMNS; 16-bit floats as their bits
COLUMNS = ("keys", "weights", "state", "life", "seen")
_FIX = "take the snapshot before this one; copy the files again if they were copied"


def spec_of(link: Link, table: str) -> TableSpec:
    """Return a table's spec.

    Raises:
        SnapshotError: the snapshot has no such table.
    """
    tables = link.manifest["tables"]
    if table not in tables:
        fix = f"its tables: {', '.join(map(repr, tables)) or 'none'}"
        raise SnapshotError(f"the snapshot holds no table {table!r}", at=link.directory, fix=fix)
    return TableSpec.from_json(tables[table]["spec"])


def rows_of(core: Any, chain: list[Link], table: str, low: int = 0, high: int = NUM_SHARDS) -> Iterator[Tensors]:
    """Yield the rows of shards [low, high) of a chain, newest first; every file is checked whole before its rows come.

    Raises:
        SnapshotError: a file is missing or damaged, the table is another one in an older snapshot, or rows are missing.
    """
    spec = spec_of(chain[0], table)
    keep = np.zeros(NUM_SHARDS, dtype=bool)
    keep[low:high] = True
    hidden = np.zeros(0, np.uint64)  # sorted: what a newer snapshot has, or says was removed
    for link in chain:
        if not keep.any():
            return
        if (old := spec_of(link, table)) != spec:
            what = f"table {table!r} has {old.differs(spec)}: the chain cannot be loaded with its row state"
            raise SnapshotError(what, at=link.directory, fix="take a snapshot before it changed, or a full one after")
        known = [hidden]
        for part in link.manifest["tables"][table]["parts"]:
            begin, end = part["shards"]
            if not keep[begin:end].any():
                continue
            for file in part["files"]:
                tensors = read_file(core, spec, link.directory, file)
                keys = np.array(tensors["keys"])
                taken = keep[shards_of(core, spec, link.directory, file, keys, (begin, end))] & ~_among(keys, hidden)
                if not part["complete"]:
                    known.append(keys[taken])
                if taken.any():
                    yield {name: tensor[taken] for name, tensor in tensors.items()}
            if part["removed"] is not None:
                known.append(read_ids(core, spec, link.directory, part, "removed")["keys"])
            if part["complete"]:
                keep[begin:end] = False
        hidden = np.unique(np.concatenate(known))
    if keep.any():
        what = f"the snapshots hold only changes of table {table!r}, not the rows that they changed"
        raise SnapshotError(what, at=chain[-1].directory, fix="take a chain that begins with a full snapshot")


def all_rows_of(core: Any, chain: list[Link], table: str) -> Iterator[Tensors]:
    """Yield all rows of a chain, one server's shards after the other's: that bounds the memory.

    Raises:
        SnapshotError: as :func:`rows_of`.
    """
    spec_of(chain[0], table)
    for part in chain[0].manifest["tables"][table]["parts"]:
        yield from rows_of(core, chain, table, *part["shards"])


def read_file(core: Any, spec: TableSpec, directory: str, file: Mapping[str, Any]) -> Tensors:
    """Map a file of rows that was checked as a server checks it when loading, and against its line of the manifest.

    Raises:
        SnapshotError: it is missing, damaged, foreign, or not of this table.
    """
    path = os.path.join(directory, file["file"])
    nothing = core.Load(spec.make(core), np.zeros(NUM_SHARDS, dtype=bool))
    _checked(lambda: nothing.rows(path, dict(file["checksums"])), path)
    tensors = read_safetensors(path)
    _check_counts(path, file, len(tensors["keys"]))
    return {name: tensors[name] for name in COLUMNS if name in tensors}


def read_ids(core: Any, spec: TableSpec, directory: str, part: Mapping[str, Any], kind: str) -> Tensors:
    """Return a part's file of ``removed`` keys or ``waiting`` ids, checked likewise.

    Raises:
        SnapshotError: as :func:`read_file`.
    """
    file = part[kind]
    path = os.path.join(directory, file["file"])
    load = core.Load(spec.make(core), np.ones(NUM_SHARDS, dtype=bool))
    take = load.removed if kind == "removed" else load.waiting
    _checked(lambda: take(path, dict(file["checksums"]), tuple(part["shards"])), path)
    tensors = {name: np.array(tensor) for name, tensor in read_safetensors(path).items()}
    _check_counts(path, file, len(tensors["keys" if kind == "removed" else "hashes"]))
    return tensors


def waiting_in(core: Any, link: Link, table: str) -> Tensors:
    """Return what a snapshot says of the ids that wait for a row: ``hashes`` in order, ``counts``, ``generations``.

    Raises:
        SnapshotError: as :func:`read_file`.
    """
    spec, parts = spec_of(link, table), link.manifest["tables"][table]["parts"]
    found = [read_ids(core, spec, link.directory, part, "waiting") for part in parts if part["waiting"] is not None]
    if not found:
        return {}
    joined = {name: np.concatenate([tensors[name] for tensors in found]) for name in ("hashes", "counts", "generations")}
    order = np.argsort(joined["hashes"])
    return {name: tensor[order] for name, tensor in joined.items()}


def shards_of(core: Any, spec: TableSpec, directory: str, file: Mapping[str, Any], keys: NDArray[np.uint64],
              claimed: tuple[int, int]) -> NDArray[np.uint16]:  # fmt: skip
    """Return the shards of a file's keys.

    Raises:
        SnapshotError: a key lies in a shard that the file's part does not claim.
    """
    shards: NDArray[np.uint16] = core.shard_of(keys, spec.salt)
    foreign = int(np.count_nonzero((shards < claimed[0]) | (shards >= claimed[1])))
    if foreign:
        what = f"{foreign} of its rows lie in shards that its server does not hold: {claimed[0]} to {claimed[1]}"
        raise SnapshotError(what, at=os.path.join(directory, file["file"]), fix=_FIX)
    return shards


def _checked(read: Any, path: str) -> None:
    try:
        read()
    except FileNotFoundError:
        raise SnapshotError("the file is missing", at=path, fix=_FIX) from None
    except OSError as error:
        raise SnapshotError(f"the file cannot be read: {error.strerror}", at=path, fix=_FIX) from None
    except ValueError as error:
        raise SnapshotError(str(error).removeprefix(f"{path}: "), at=path, fix=_FIX) from None


def _check_counts(path: str, file: Mapping[str, Any], num_rows: int) -> None:
    found, wanted = (num_rows, os.path.getsize(path)), (file["rows"], file["bytes"])
    if found != wanted:
        what = f"the file has {found[0]} rows and {found[1]} bytes; the manifest says {wanted[0]} and {wanted[1]}"
        raise SnapshotError(what, at=path, fix=_FIX)


def _among(keys: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell which keys are among sorted ones."""
    if not len(known):
        return np.zeros(len(keys), dtype=bool)
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    found: NDArray[np.bool_] = known[at] == keys
    return found
