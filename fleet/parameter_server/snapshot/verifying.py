"""``verify``: every file of snapshots and of those that they continue, with every fault instead of the first."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fleet.errors import SnapshotError
from fleet.parameter_server.snapshot import manifest as manifests
from fleet.parameter_server.snapshot.manifest import Link
from fleet.parameter_server.snapshot.places import snapshots_in
from fleet.parameter_server.snapshot.reading import read_file, read_ids, shards_of, spec_of
from fleet.parameter_server.spec import TableSpec


def faults_in(core: Any, directory: str) -> tuple[list[SnapshotError], int, int]:
    """Check every snapshot in a directory, back to the full ones; return the faults, and how many snapshots and files were read.

    Memory: a file of rows, and 8 bytes for each row of one server's part of a table.

    Raises:
        SnapshotError: there is no snapshot here.
    """
    faults: list[SnapshotError] = []
    checked: set[str] = set()
    files = 0
    for path in snapshots_in(directory):
        link: Link | None = None
        try:
            link = manifests.read(path)
            while link is not None and link.directory not in checked:
                checked.add(link.directory)
                files += _check_files(core, link, faults)
                base = manifests.base_of(link)
                if base is not None:
                    _check_specs(link, base)
                link = base
        except SnapshotError as error:
            checked.add(path)
            faults.append(error)
    unique = {str(fault): fault for fault in faults}  # two deltas of one lost base say so once each; a damaged base, once in all
    return list(unique.values()), len(checked), files


def _check_files(core: Any, link: Link, faults: list[SnapshotError]) -> int:
    num_files = 0
    owner: dict[str, str] = {}
    for name, table in link.manifest["tables"].items():
        spec = spec_of(link, name)
        for part in table["parts"]:
            named = manifests.files_of(part)
            num_files += len(named)
            for file in named:
                if file["file"] in owner:
                    what = f"the manifest names this file twice: for table {owner[file['file']]!r} and table {name!r}"
                    path = os.path.join(link.directory, file["file"])
                    faults.append(SnapshotError(what, at=path, fix="take the snapshot before this one"))
                owner[file["file"]] = name
            _check_part(core, spec, link, part, faults)
    return num_files


def _check_part(core: Any, spec: TableSpec, link: Link, part: dict[str, Any], faults: list[SnapshotError]) -> None:
    met = []
    for file in part["files"]:
        try:
            keys = np.array(read_file(core, spec, link.directory, file)["keys"])
            shards_of(core, spec, link.directory, file, keys, tuple(part["shards"]))
            met.append(keys)
        except SnapshotError as error:
            faults.append(error)
    for kind in ("removed", "waiting"):
        try:
            if part[kind] is not None:
                read_ids(core, spec, link.directory, part, kind)
        except SnapshotError as error:
            faults.append(error)
    every = np.sort(np.concatenate(met)) if met else np.zeros(0, np.uint64)
    repeated = int(np.count_nonzero(every[1:] == every[:-1]))
    if repeated:
        what = f"table {spec.name!r}: {repeated} keys of server {part['server']} lie in its files twice"
        faults.append(SnapshotError(what, at=link.directory, fix="take the snapshot before this one"))


def _check_specs(link: Link, base: Link) -> None:
    """A delta's incomplete parts need the same table in what they continue."""
    for name, table in link.manifest["tables"].items():
        if not all(part["complete"] for part in table["parts"]) and (old := spec_of(base, name)) != (new := spec_of(link, name)):
            what = f"table {name!r} has {old.differs(new)} in the snapshot that {link.directory} continues"
            raise SnapshotError(what, at=base.directory, fix="load a full snapshot")
