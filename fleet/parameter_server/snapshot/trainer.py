"""A trainer's side of snapshots: lets all servers cut, waits until they have written, writes the manifest; and loads.

``docs/snapshot.md`` describes the files. A snapshot directory is made inside a temporary one and renamed by whoever asked for it
(checkpoint.py), so a kill at any moment leaves the last good one.
"""

from __future__ import annotations

import os
import time
import uuid
from typing import Any

from fleet.errors import SnapshotError
from fleet.parameter_server.client import Client
from fleet.parameter_server.snapshot import manifest as manifests
from fleet.parameter_server.snapshot.manifest import Link, Parent

POLL_S = (0.01, 0.2)  # between two questions whether the servers have written: the first, and the longest


class Saving:
    """A snapshot that the servers are writing.

    Args:
        home: where the directory will be in the end: a delta names its parent relative to it.
    """

    def __init__(self, client: Client, directory: str, parent: Parent | None, delta: bool, home: str) -> None:
        self._client, self._directory = client, os.path.abspath(directory)
        self._parent, self._home = parent, os.path.abspath(home)
        self.id = uuid.uuid4().hex
        self._job = parent.job if parent is not None else uuid.uuid4().hex
        self.interrupted = False  # a server was started again while it wrote: nobody's fault that stands, only no snapshot
        os.makedirs(self._directory, exist_ok=True)
        ask = {"directory": self._directory, "snapshot": self.id, "parent": parent.id if parent else None, "delta": delta}
        steps = [answer["step"] for answer in client.save(ask)]
        self._lives = client.lives
        self._step, self._specs = client.step, {name: table.spec.to_json() for name, table in client.tables.items()}
        if client.mode.name == "sync" and set(steps) != {self._step}:
            self.cancel()
            what = f"the servers are at steps {steps}, this trainer at {self._step}: a trainer went on while others saved"
            raise SnapshotError(what, at=self._directory, fix="let all trainers call save() after the same step")

    def wait(self) -> Link:
        """Return once all servers have written and the manifest is on the disk.

        Raises:
            SnapshotError: a disk refused, or a server was started again meanwhile. Safe to retry with a new snapshot.
            PeerLost: a server died.
        """
        try:
            answers = self._written()
        except SnapshotError:
            self.interrupted = self._client.lives != self._lives
            self.cancel()
            raise
        tables = {
            name: {"spec": spec, "parts": [answer["parts"][name] for answer in answers]} for name, spec in self._specs.items()
        }
        complete = all(part["complete"] for table in tables.values() for part in table["parts"])
        parent = None
        if not complete:
            assert self._parent is not None, "a server wrote a delta of nothing"
            where = os.path.relpath(self._parent.directory, self._home)
            parent = {"directory": where, "id": self._parent.id, "checksum": self._parent.checksum}
        return manifests.write(
            self._directory,
            {
                "id": self.id,
                "job": self._job,
                "parent": parent,
                "step": self._step,
                "num_servers": len(answers),
                "tables": tables,
                "applied": [answer["applied"] for answer in answers],
            },
        )

    def _written(self) -> list[dict[str, Any]]:
        """Ask until all servers have written; return their answers."""
        pause_s, most_s = POLL_S
        answers = self._client.save_outcome(self.id)
        while not all(answer["done"] for answer in answers):
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, most_s)
            answers = self._client.save_outcome(self.id)
        return answers

    def cancel(self) -> None:
        """Let the servers stop writing."""
        self._client.cancel_save(self.id)


def save(client: Client, directory: str, parent: Parent | None = None, delta: bool = False) -> Link:
    """Let the servers write all tables below ``directory``, then write the manifest; return once it is on the disk.

    Raises:
        SnapshotError: a disk refused. Safe to retry.
        PeerLost: a server died.
    """
    return Saving(client, directory, parent, delta, directory).wait()


def load(client: Client, directory: str, keep_state: bool = True) -> Link:
    """Let the servers replace their rows by a snapshot's, deltas and their base together. Call it from one trainer.

    Args:
        keep_state: False drops the rows' optimizer state, so that a snapshot of another row optimizer fits.

    Raises:
        SnapshotError: the snapshot is missing, damaged, or of other tables; no server changed a row.
        PeerLost: a server died.
    """
    chain = manifests.chain(directory)
    extra = sorted(set(chain[0].manifest["tables"]) - set(client.tables))
    if extra:
        fix = "load it with the model that it was saved with"
        raise SnapshotError(f"the snapshot holds tables that the model does not: {', '.join(extra)}", at=directory, fix=fix)
    client.load([link._asdict() for link in chain], keep_state)
    return chain[0]
