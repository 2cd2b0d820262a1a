"""The tables as checkpoints see them: snapshots by the servers, and rows as plain arrays beside the model's weights."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fleet import disk
from fleet.errors import ConfigError, SnapshotError
from fleet.parameter_server import report
from fleet.parameter_server.local_copies import LocalCopies
from fleet.parameter_server.session import Session
from fleet.parameter_server.snapshot import manifest, trainer
from fleet.parameter_server.snapshot.manifest import parent_of
from fleet.parameter_server.snapshot.trainer import Saving

if TYPE_CHECKING:
    from fleet.parameter_server.dense import Dense
    from fleet.parameter_server.embedding import Embedding


class Weights:
    """All tables of a job, from inside one trainer.

    Args:
        embeddings: path of the layer in the model -> the layer.
    """

    def __init__(self, session: Session, embeddings: dict[str, Embedding]) -> None:
        self._session, self._embeddings = session, embeddings
        self.dense: Dense | None = None  # the dense parameters, where they live on the servers
        self._newest: manifest.Link | None = None  # of this job's checkpoints

    def stats(self) -> dict[str, Any]:
        """Return what the servers count."""
        return report.of(self._session.client)

    def flush(self) -> None:
        """Return once the servers have taken every push of this trainer."""
        self._session.flush()

    def shrink(self, below: float | None) -> int:
        """Let the servers evict what has expired, and rows with a score below ``below``; return how many rows went.

        Raises:
            ConfigError: no table of the job loses rows, or none has scores.
        """
        lives = [e.life for e in self._embeddings.values()]
        scored = any(life.scored for life in lives)
        if not any(life.evicts for life in lives) or (below is not None and not scored):
            what = "no table of this job " + ("has rows with a score" if below is not None else "loses rows")
            fix = 'give an embedding eviction={"by": "score", "every": steps of a day}'
            raise ConfigError(what, at="fleet.shrink()", fix=fix)
        self.flush()
        return self._session.client.shrink(float(below or 0))

    def begin_save(self, directory: str, delta: bool, home: str) -> Saving:
        """Let the servers cut a snapshot and write it while training goes on; one trainer calls it, after all have flushed.

        Args:
            delta: write only what changed since the newest snapshot of this job, if there is one.
            home: where the directory will be in the end.
        """
        parent = parent_of(self._newest) if self._newest is not None else None
        return Saving(self._session.client, directory, parent, delta and parent is not None, home)

    def stands(self, directory: str) -> None:
        """Take note that a snapshot is where it will stay: the next delta continues it."""
        self._newest = manifest.read(directory)

    def save(self, directory: str) -> None:
        """Let the servers write a snapshot that needs no other; one trainer calls it, after all have flushed."""
        self.begin_save(directory, False, directory).wait()

    def chain(self, directory: str) -> list[str]:
        """Return the directories of a snapshot and of those that it continues.

        Raises:
            SnapshotError: one is missing, damaged, or not the one that the delta after it was made from.
        """
        return [link.directory for link in manifest.chain(directory)]

    def chain_bytes(self, directory: str) -> list[int]:
        """Return the bytes of the tables' files of a snapshot and of those that it continues, the newest first.

        Raises:
            SnapshotError: as :meth:`chain`.
        """
        return [manifest.bytes_of(link) for link in manifest.chain(directory)]

    def load(self, directory: str, keep_state: bool = True) -> None:
        """Let the servers take up a snapshot; one trainer calls it, then all call :meth:`restart`.

        Raises:
            SnapshotError: it is missing, damaged, or of other tables; the rows are as they were.
        """
        trainer.load(self._session.client, directory, keep_state)

    def restart(self, directory: str) -> None:
        """Go on at the step of a snapshot that the servers have taken up."""
        self._newest = None
        self._session.restart(int(manifest.read(directory).manifest["step"]))

    @property
    def pushes(self) -> int:
        """Return how many pushes this trainer has made."""
        return self._session.client.step

    def go_on(self, pushes: int) -> None:
        """Go on behind so many pushes of an earlier life."""
        self._session.restart(pushes)

    def pull_dense(self) -> None:
        """Take over the dense parameters that the servers hold, if they do: trainers hold slightly different copies of them."""
        if self.dense is not None:
            self.dense.pull()

    def push_dense(self) -> None:
        """Set the servers' dense parameters to this trainer's; one trainer calls it."""
        if self.dense is not None:
            self.dense.upload()

    def save_state(self, path: str) -> None:
        """Write the row state that is this trainer's own (geo) to a file; nothing is written if the servers hold it all.

        Raises:
            OSError: the disk refused.
        """
        if isinstance(self._session.client, LocalCopies):
            buffer = io.BytesIO()
            np.savez(buffer, **self._session.client.state())
            disk.write_bytes(path, buffer.getvalue())

    def load_state(self, path: str) -> None:
        """Take up what :meth:`save_state` wrote; without a file row state begins anew.

        Raises:
            SnapshotError: it is of other tables or another row optimizer.
        """
        if isinstance(self._session.client, LocalCopies) and os.path.exists(path):
            with np.load(path, allow_pickle=False) as arrays:
                self._session.client.load_state(dict(arrays))

    def has_open_tables(self) -> bool:
        """Return whether a table has no vocabulary, so that its rows are no plain weight."""
        return any(not e.vocabulary for e in self._embeddings.values())

    def weights(self) -> dict[str, Any]:
        """Return the rows of tables with a vocabulary by the name that nn.Embedding gives them: float32[vocabulary, dim]."""
        import paddle

        return {_key(path): paddle.to_tensor(e.download()) for path, e in self._embeddings.items() if e.vocabulary}

    def take_weights(self, state: dict[str, Any]) -> dict[str, Any]:
        """Take those rows out of a state dict and return them.

        Raises:
            SnapshotError: one is missing or has another shape.
        """
        rows = {}
        for path, e in self._embeddings.items():
            if e.vocabulary:
                value = state.pop(_key(path), None)
                shape = None if value is None else list(value.shape)
                if shape != [e.vocabulary, e.dim]:
                    fix = "load it with the model that it was saved with"
                    raise SnapshotError(
                        f"{_key(path)} has shape {shape}, the model's has {[e.vocabulary, e.dim]}", at=path, fix=fix
                    )
                rows[path] = value
        return rows

    def set_weights(self, rows: dict[str, Any]) -> None:
        """Send rows to the servers; their row state begins anew."""
        for path, value in rows.items():
            self._embeddings[path].assign(np.ascontiguousarray(value.numpy(), dtype=np.float32))


def _key(path: str) -> str:
    return f"{path}.weight" if path else "weight"
