"""A snapshot's manifest: what was saved, of which snapshot it is a delta, and the checksum of every file. Written last.

A snapshot is a directory. A delta names its parent by directory, id and checksum; the chain ends at a snapshot whose parts are
all complete. Whatever is read here was perhaps edited: every field is checked before anybody uses it.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from fleet import disk
from fleet.errors import FleetError, SnapshotError
from fleet.parameter_server.spec import NUM_SHARDS, TableSpec

FORMAT = "fleet tables 3"
MANIFEST = "manifest.json"
MAX_CHAIN = 4096  # snapshots of one chain: longer ones are a circle or a mistake
_EARLIER = "take the snapshot before this one; copy the files again if they were copied"


class Link(NamedTuple):
    """One snapshot of a chain."""

    directory: str  # absolute
    manifest: dict[str, Any]


class Parent(NamedTuple):
    """The snapshot that a delta continues."""

    directory: str  # absolute
    id: str
    checksum: int
    job: str


def parent_of(link: Link) -> Parent:
    """Return a snapshot as the parent of its deltas."""
    m = link.manifest
    return Parent(link.directory, str(m["id"]), int(m["checksum"]), str(m["job"]))


def files_of(part: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all files of a part: of rows, of removed keys, of ids that wait."""
    return [*part["files"], *(part[name] for name in ("removed", "waiting") if part[name] is not None)]


def bytes_of(link: Link) -> int:
    """Return the bytes of all files of a snapshot's own."""
    parts = [part for table in link.manifest["tables"].values() for part in table["parts"]]
    return sum(file["bytes"] for part in parts for file in files_of(part))


def checksum_of(manifest: dict[str, Any]) -> int:
    """Return the CRC-32 of everything in a manifest but the checksum itself."""
    return disk.json_checksum({k: v for k, v in manifest.items() if k != "checksum"})


def write(directory: str, manifest: dict[str, Any]) -> Link:
    """Write a manifest with its checksum and make it durable; return the snapshot.

    Raises:
        SnapshotError: the disk refused.
    """
    manifest = {**manifest, "format": FORMAT}
    manifest["checksum"] = checksum_of(manifest)
    path = os.path.join(directory, MANIFEST)
    try:
        disk.write_bytes(path, json.dumps(manifest, indent=1).encode())
        disk.sync_directory(directory)
    except OSError as error:
        fix = "free space or give another directory; the last snapshot is as it was"
        raise SnapshotError(f"cannot write: {error.strerror}", at=path, fix=fix) from None
    return Link(directory, manifest)


def read(directory: str) -> Link:
    """Read and check a snapshot's manifest.

    Raises:
        SnapshotError: there is none, it was changed after it was written, or it makes no sense.
    """
    directory = os.path.abspath(directory)
    path = os.path.join(directory, MANIFEST)
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
    except FileNotFoundError:
        fix = "give the directory of a complete snapshot"
        raise SnapshotError("there is no snapshot here: the manifest is missing", at=path, fix=fix) from None
    except (OSError, ValueError, RecursionError) as error:
        raise SnapshotError(f"the manifest cannot be read: {error!r}", at=path, fix=_EARLIER) from None
    check(manifest, path)
    return Link(directory, manifest)


def chain(directory: str) -> list[Link]:
    """Return a snapshot and those that it continues, newest first.

    Raises:
        SnapshotError: one is missing, damaged, or is not the one that the delta after it was made from.
    """
    links = [read(directory)]
    while (base := base_of(links[-1])) is not None:
        links.append(base)
        if len(links) > MAX_CHAIN:
            what = f"a chain of more than {MAX_CHAIN} deltas"
            raise SnapshotError(what, at=links[-2].directory, fix="merge it into a full snapshot")
    return links


def base_of(child: Link) -> Link | None:
    """Return the snapshot that a delta continues; None if it needs none.

    Raises:
        SnapshotError: as :func:`chain`.
    """
    parent = child.manifest["parent"]
    if parent is None:
        return None
    at = os.path.normpath(os.path.join(child.directory, parent["directory"]))
    if not os.path.exists(os.path.join(at, MANIFEST)):
        what = f"{child.directory} is a delta of a snapshot that is not there"
        raise SnapshotError(what, at=at, fix="bring that directory back, or load a full snapshot")
    base = read(at)
    _check_parent(child, base)
    return base


def _check_parent(child: Link, base: Link) -> None:
    wanted, found = child.manifest["parent"], base.manifest
    fix = "bring back the directory that was there when the delta was written, or load a full snapshot"
    if child.manifest["job"] != found["job"]:
        what = f"{child.directory} is a delta of job {child.manifest['job']}, its base is of job {found['job']}"
        raise SnapshotError(what, at=base.directory, fix=fix)
    if (wanted["id"], wanted["checksum"]) != (found["id"], found["checksum"]):
        what = f"{child.directory} is a delta of snapshot {wanted['id']}, but snapshot {found['id']} lies here"
        raise SnapshotError(what, at=base.directory, fix=fix)


def applied_on(manifest: dict[str, Any], server: int, num_servers: int) -> dict[int, tuple[int, int]]:
    """Return what had counted on a server at its cut: trainer -> (incarnation, sequence).

    A push reaches one server after the other, and a cut may fall between: what counted elsewhere need not be in these rows.
    Other numbers of servers are another run, whose trainers live later: they take the latest of all.
    """
    cuts = manifest["applied"]
    found: dict[int, tuple[int, int]] = {}
    for applied in [cuts[server]] if num_servers == len(cuts) else cuts:
        for trainer, life in applied.items():
            found[int(trainer)] = max(found.get(int(trainer), (0, 0)), (int(life[0]), int(life[1])))
    return found


def check(manifest: Any, at: str) -> None:
    """Refuse a manifest that is not ours, was edited, or contradicts itself.

    Raises:
        SnapshotError: with what is wrong.
    """
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise SnapshotError(f"not a manifest of {FORMAT!r}: {found!r}", at=at, fix="load it with the fleet that wrote it")
    if manifest.get("checksum") != checksum_of(manifest):
        raise SnapshotError("the manifest was changed after it was written: its checksum is wrong", at=at, fix=_EARLIER)
    try:
        _check_fields(manifest)
        for name, table in manifest["tables"].items():
            if TableSpec.from_json(table["spec"]).name != name:
                raise ValueError(f"table {name!r} has the spec of another")
            _check_parts(name, table["parts"], whole=manifest["parent"] is None)
    except FleetError as error:
        raise SnapshotError(f"the manifest makes no sense: {error.what}", at=at, fix=_EARLIER) from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise SnapshotError(f"the manifest makes no sense: {error!r}", at=at, fix=_EARLIER) from None


def _check_fields(manifest: dict[str, Any]) -> None:
    for field in ("id", "job"):
        if not isinstance(manifest[field], str) or not manifest[field]:
            raise ValueError(f"{field} is {manifest[field]!r}")
    parent = manifest["parent"]
    if parent is not None and not (isinstance(parent["directory"], str) and isinstance(parent["id"], str)):
        raise ValueError(f"parent is {parent!r}")
    _count(manifest["step"], "step")
    if _count(manifest["num_servers"], "num_servers") < 1:
        raise ValueError("num_servers is 0")
    if len(manifest["applied"]) != manifest["num_servers"]:
        raise ValueError(f"applied is of {len(manifest['applied'])} servers, not of {manifest['num_servers']}")
    for applied in manifest["applied"]:
        for trainer, life in applied.items():
            _count(int(trainer), "trainer")
            _count(life[0], "incarnation")
            _count(life[1], "sequence")


def _check_parts(name: str, parts: list[dict[str, Any]], whole: bool) -> None:
    """Each shard has exactly one part; each file lies in the snapshot's directory."""
    owner: dict[int, int] = {}
    for part in parts:
        server, (low, high) = _count(part["server"], "server"), (_count(shard, "a shard") for shard in part["shards"])
        if not low <= high <= NUM_SHARDS:
            raise ValueError(f"table {name!r}: shards {low} to {high}")
        for shard in range(low, high):
            if shard in owner:
                raise ValueError(f"table {name!r}: servers {owner[shard]} and {server} both claim shard {shard}")
            owner[shard] = server
        if not isinstance(part["complete"], bool):
            raise ValueError(f"table {name!r}: complete is {part['complete']!r}")
        if whole and not part["complete"]:
            raise ValueError(f"table {name!r}: the part of server {server} is a delta, and the snapshot has no parent")
        _count(part["steps"], "steps")
        _count(part["clock"], "clock")
        _count(part["rows"], "rows")
        if sum(file["rows"] for file in part["files"]) != part["rows"]:
            raise ValueError(f"table {name!r}: the files of server {server} do not have its {part['rows']} rows")
        if whole and part["removed"] is not None:
            raise ValueError(f"table {name!r}: the part of server {server} removes rows, and the snapshot has no parent")
        for file in files_of(part):
            _check_file(name, file)
    missing = [shard for shard in range(NUM_SHARDS) if shard not in owner]
    if missing:
        raise ValueError(f"table {name!r}: no server has shard {missing[0]}")


def _check_file(name: str, file: dict[str, Any]) -> None:
    path = file["file"]
    if not isinstance(path, str) or os.path.isabs(path) or ".." in path.split("/") or "\0" in path:
        raise ValueError(f"table {name!r}: {path!r} is no file of a snapshot")
    if _count(file["rows"], "rows") > _count(file["bytes"], "bytes"):
        raise ValueError(f"table {name!r}: {path} cannot have {file['rows']} rows in {file['bytes']} bytes")
    if not file["checksums"]:
        raise ValueError(f"table {name!r}: {path} has no checksum")
    for value in file["checksums"].values():
        if _count(value, "a checksum") >= 1 << 32:
            raise ValueError(f"table {name!r}: {path} has a checksum of {value}")


def _count(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise ValueError(f"{what} is {value!r}")
    return value
