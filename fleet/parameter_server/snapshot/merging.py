"""``merge``: a full snapshot out of a chain, table by table and file by file."""

from __future__ import annotations

import os
import uuid
from typing import Any

from fleet.parameter_server.snapshot import manifest as manifests
from fleet.parameter_server.snapshot.manifest import Link
from fleet.parameter_server.snapshot.places import newest_in
from fleet.parameter_server.snapshot.reading import rows_of, spec_of
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
    parts = [write_part(core, spec, p, rows_of(core, chain, table, *p["shards"]), directory) for p in newest["parts"]]
    return {"spec": newest["spec"], "parts": parts}
