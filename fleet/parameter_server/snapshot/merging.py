"""``merge``: a full snapshot out of a chain, table by table and file by file."""

from __future__ import annotations

import os
import shutil
import uuid
from typing import Any
from urllib.parse import quote

from fleet import disk
from fleet.parameter_server.snapshot import manifest as manifests
from fleet.parameter_server.snapshot.manifest import Link
from fleet.parameter_server.snapshot.places import newest_in
from fleet.parameter_server.snapshot.reading import read_ids, rows_of, spec_of
from fleet.parameter_server.snapshot.writing import new_directory, write_part


def merge(core: Any, directory: str, target: str) -> Link:
    """Write what a chain loads to as one full snapshot; return it.

    It has an id of its own: deltas of the chain still need the chain.
    Memory: two files of rows, and 8 bytes for each row of the deltas in one server's shards.

    Raises:
        SnapshotError: ``target`` exists, the chain is incomplete or damaged, or the disk refused; ``target`` is not there then.
    """
    chain = manifests.chain(newest_in(directory))
    with new_directory(target) as temporary:
        newest = chain[0].manifest
        tables = {name: merge_table(core, chain, name, temporary) for name in newest["tables"]}
        manifests.write(temporary, {**newest, "id": uuid.uuid4().hex, "parent": None, "tables": tables})
    return manifests.read(os.path.abspath(target))


def merge_table(core: Any, chain: list[Link], table: str, directory: str) -> dict[str, Any]:
    """Write what a chain has of one table below ``directory``; return what a manifest says of it.

    Raises:
        SnapshotError: the chain is incomplete or damaged.
    """
    spec, newest = spec_of(chain[0], table), chain[0].manifest["tables"][table]
    parts = []
    for part in newest["parts"]:
        written = write_part(core, spec, part, rows_of(core, chain, table, *part["shards"]), directory)
        parts.append({**written, "waiting": _copy_waiting(core, chain[0], table, part, directory)})
    return {"spec": newest["spec"], "parts": parts}


def _copy_waiting(core: Any, link: Link, table: str, part: dict[str, Any], directory: str) -> dict[str, Any] | None:
    """Copy the file of the ids that wait: the newest snapshot names all of them."""
    if part["waiting"] is None:
        return None
    read_ids(core, spec_of(link, table), link.directory, part, "waiting")
    file = f"{quote(table, safe='')}/part-{part['server']:04d}-waiting.safetensors"
    path = os.path.join(directory, file)
    shutil.copyfile(os.path.join(link.directory, part["waiting"]["file"]), path)
    disk.sync(path)
    disk.sync_directory(os.path.dirname(path))
    return {**part["waiting"], "file": file}
