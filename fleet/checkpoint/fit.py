"""Whether a checkpoint is whole and fits this job."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from fleet.errors import SnapshotError
from fleet.shelf import Damaged


@contextlib.contextmanager
def damage() -> Iterator[None]:
    """Make every failure of a step in which all trainers look at files a damage: the trainers that saw none are told by others."""
    try:
        yield
    except SnapshotError as error:
        raise Damaged(error.what, at=error.at, fix=error.fix) from None


def check_fits(manifest: dict[str, Any], path: str, has_tables: bool, world_size: int) -> None:
    """Refuse a checkpoint that this job cannot take up, whatever its model is.

    Raises:
        SnapshotError: it has tables and the job has not, or the other way round; or trainers' own row state of another number.
    """
    if manifest["tables"] != has_tables:
        what = "the checkpoint has tables on servers" if manifest["tables"] else "the checkpoint has no tables on servers"
        raise SnapshotError(f"{what}, this job is the other way round", at=path, fix="use the strategy that it was saved with")
    own_rows = any(name.endswith(".rows.npz") for name in manifest["files"])
    if own_rows and manifest["world_size"] != world_size:
        what = f"the checkpoint is of {manifest['world_size']} trainers with row state of their own, this job has {world_size}"
        raise SnapshotError(what, at=path, fix="start as many trainers, or fleet.load the weights alone")
