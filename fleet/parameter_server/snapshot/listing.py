"""``ls``: the snapshots in a directory, a line each."""

from __future__ import annotations

import os

from fleet.errors import SnapshotError
from fleet.parameter_server.snapshot import manifest as manifests
from fleet.parameter_server.snapshot.manifest import Link
from fleet.parameter_server.snapshot.places import snapshots_in

HEAD = ("snapshot", "step", "kind", "tables", "rows", "bytes", "servers")


def listing(directory: str) -> tuple[str, bool]:
    """Return a table of a directory's snapshots, and whether each could be read; rows and bytes are those of its own files.

    Raises:
        SnapshotError: there is no snapshot here.
    """
    root = os.path.abspath(directory)
    lines: list[tuple[str, ...]] = [HEAD]
    failures = []
    for path in snapshots_in(directory):
        try:
            lines.append(_line(root, manifests.read(path)))
        except SnapshotError as error:
            failures.append(str(error))
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, *failures]), not failures


def _line(root: str, link: Link) -> tuple[str, ...]:
    m, parent = link.manifest, link.manifest["parent"]
    parts = [part for table in m["tables"].values() for part in table["parts"]]
    base = None if parent is None else os.path.normpath(os.path.join(link.directory, parent["directory"]))
    return (
        os.path.relpath(link.directory, root),
        str(m["step"]),
        "full" if base is None else f"delta of {os.path.relpath(base, root)}",
        str(len(m["tables"])),
        str(sum(part["rows"] for part in parts)),
        str(manifests.bytes_of(link)),
        str(m["num_servers"]),
    )
