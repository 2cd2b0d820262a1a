"""Snapshots of all tables: one safetensors file per table and server, and a manifest written last.

``docs/snapshot.md`` describes the files. A snapshot directory is made inside a temporary one and renamed by whoever asked
for it (checkpoint.py), so a kill at any moment leaves the last good one.
"""

from __future__ import annotations

import json
import os
from typing import Any

from fleet import disk
from fleet.errors import SnapshotError
from fleet.parameter_server.client import Client

FORMAT = "fleet tables 1"
MANIFEST = "manifest.json"


def save(client: Client, directory: str) -> None:
    """Let the servers write all tables below ``directory``, then write the manifest. Call it from one trainer.

    Raises:
        SnapshotError: a disk refused. Safe to retry.
        PeerLost: a server died.
    """
    directory = os.path.abspath(directory)
    os.makedirs(directory, exist_ok=True)
    answers = client.save(directory)
    tables = {
        name: {"spec": table.spec.to_json(), "files": [answer["files"][name] for answer in answers]}
        for name, table in client.tables.items()
    }
    applied: dict[str, list[int]] = {}
    for answer in answers:
        for trainer, counted in answer["applied"].items():
            applied[trainer] = max(applied.get(trainer, [0, 0]), counted)
    manifest = {"format": FORMAT, "step": client.step, "num_servers": len(answers), "tables": tables, "applied": applied}
    write_json(os.path.join(directory, MANIFEST), manifest)


def load(client: Client, directory: str) -> int:
    """Let the servers replace their rows by a snapshot's; return the step it was taken at. Call it from one trainer.

    Raises:
        SnapshotError: the snapshot is missing, damaged, or of other tables; no server changed a row that it had verified badly.
        PeerLost: a server died.
    """
    directory = os.path.abspath(directory)
    manifest = read_manifest(directory)
    extra = sorted(set(manifest["tables"]) - set(client.tables))
    if extra:
        fix = "load it with the model that it was saved with"
        raise SnapshotError(f"the snapshot holds tables that the model does not: {', '.join(extra)}", at=directory, fix=fix)
    client.load(directory, manifest)
    return int(manifest["step"])


def read_manifest(directory: str) -> dict[str, Any]:
    """Return a snapshot's manifest.

    Raises:
        SnapshotError: there is none, or it is no manifest of this format.
    """
    path = os.path.join(directory, MANIFEST)
    try:
        with open(path, encoding="utf-8") as file:
            manifest: dict[str, Any] = json.load(file)
        found = manifest["format"]
        complete = {"step", "num_servers", "tables", "applied"} <= set(manifest)
    except FileNotFoundError:
        fix = "give the directory of a complete snapshot"
        raise SnapshotError("there is no snapshot here: the manifest is missing", at=path, fix=fix) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"the manifest cannot be read: {error!r}", at=path, fix="take the snapshot before this one") from None
    if found != FORMAT or not complete:
        raise SnapshotError(f"not a manifest of {FORMAT!r}: {found!r}", at=path, fix="load it with the fleet that wrote it")
    return manifest


def write_json(path: str, value: Any) -> None:
    """Write a small file and make it durable."""
    try:
        disk.write_bytes(path, json.dumps(value, indent=1).encode())
    except OSError as error:
        fix = "free space or give another directory; the last snapshot is as it was"
        raise SnapshotError(f"cannot write: {error.strerror}", at=path, fix=fix) from None
