"""Which snapshots lie in a directory: one, or those of a checkpoint directory, step by step."""

from __future__ import annotations

import os
import re

from fleet.errors import SnapshotError
from fleet.parameter_server.snapshot import manifest as manifests

_STEP = re.compile(r"step-(\d{8,})$")


def snapshots_in(directory: str) -> list[str]:
    """Return the absolute paths of a directory's snapshots, the oldest first; damaged ones are among them.

    Args:
        directory: a snapshot itself, a checkpoint ``step-*`` with ``tables/``, or the directory of several of those.

    Raises:
        SnapshotError: there is none.
    """
    directory = os.path.abspath(directory)
    if not os.path.isdir(directory):
        what = "this is a file, not a directory" if os.path.exists(directory) else "there is no such directory"
        raise SnapshotError(what, at=directory, fix="give a snapshot, or a directory of checkpoints: DIR or DIR/step-*/tables")
    if found := [os.path.join(directory, name, "tables") for name in _steps(directory)]:
        return found
    tables = os.path.join(directory, "tables")
    is_step = _STEP.match(os.path.basename(directory)) is not None and os.path.isdir(tables)
    if is_step or os.path.exists(os.path.join(tables, manifests.MANIFEST)):
        return [tables]
    if os.path.exists(os.path.join(directory, manifests.MANIFEST)) or _has_parts(directory):
        return [directory]
    raise SnapshotError("there is no snapshot here", at=directory, fix="give a snapshot, or a directory of checkpoints with tables")


def newest_in(directory: str) -> str:
    """Return the newest of a directory's snapshots.

    Raises:
        SnapshotError: there is none.
    """
    return snapshots_in(directory)[-1]


def _steps(directory: str) -> list[str]:
    names = [n for n in os.listdir(directory) if _STEP.match(n) and os.path.isdir(os.path.join(directory, n, "tables"))]
    return sorted(names, key=lambda n: int(n.removeprefix("step-")))


def _has_parts(directory: str) -> bool:
    """Tell whether tables lie here, perhaps without the manifest, which is written last."""
    below = [os.path.join(directory, name) for name in os.listdir(directory)]
    return any(name.startswith("part-") for path in below if os.path.isdir(path) for name in os.listdir(path))
