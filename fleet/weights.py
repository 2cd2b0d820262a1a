"""Plain files of weights: what fleet writes, Paddle alone reads, and the other way round.

All trainers call both functions. A call by some ends with an error naming the missing ranks.
"""

from __future__ import annotations

import os
from typing import Any

from fleet import disk, paddle_wheel
from fleet.errors import FleetError, SnapshotError
from fleet.runtime import current
from fleet.together import on_first, patience, together


def save(model: Any, path: str) -> None:
    """Write the model's weights as plain Paddle reads them; rows come back from the servers.

    Tables without a vocabulary go into a snapshot directory beside the file, ``PATH.tables``, streamed by the servers.

    Raises:
        SnapshotError: it could not be written; a file that was there is as it was. Safe to retry.
    """
    runtime = current("fleet.save()")
    paddle_wheel.load("fleet.save()")
    tables = runtime.tables
    if tables is not None:
        tables.flush()
    together(runtime, "start of fleet.save()", lambda: None, None)

    def write() -> None:
        if tables is not None:
            tables.pull_dense()
        state = dict(model.state_dict())
        if tables is not None:
            state.update(tables.weights())
            if tables.has_open_tables():
                temporary = f"{path}.tables.tmp"
                disk.remove_tree(temporary)
                tables.save(temporary)
                _replace(temporary, f"{path}.tables")
        disk.make_directories(os.path.dirname(os.path.abspath(path)))
        disk.save_paddle(state, f"{path}.tmp")
        disk.rename(f"{path}.tmp", path)
        disk.sync_directory(os.path.dirname(os.path.abspath(path)))

    try:
        together(runtime, "fleet.save()", lambda: on_first(runtime, write))
    except FleetError:
        on_first(runtime, lambda: disk.remove(f"{path}.tmp"))
        on_first(runtime, lambda: disk.remove_tree(f"{path}.tables.tmp"))
        raise


def load(model: Any, path: str) -> None:
    """Read weights that ``fleet.save`` or ``paddle.save`` wrote into the model, and into its tables.

    Raises:
        SnapshotError: the file is missing or holds another model; nothing was loaded.
    """
    runtime = current("fleet.load()")
    paddle_wheel.load("fleet.load()")
    tables = runtime.tables
    state: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    if tables is not None:
        tables.flush()

    def read() -> None:
        if not os.path.isfile(path):
            raise SnapshotError("there is no such file", at=path, fix="give the path that fleet.save wrote")
        state.update(disk.read_paddle(path))
        state.pop(disk.NAMES, None)
        if tables is not None:
            rows.update(tables.take_weights(state))
        disk.check_shapes(model.state_dict(), state, path)

    def put() -> None:
        if tables is not None and tables.has_open_tables():
            tables.load(f"{path}.tables")
        if tables is not None:
            tables.set_weights(rows)

    def apply() -> None:
        if tables is not None and tables.has_open_tables():
            tables.restart(f"{path}.tables")
        model.set_state_dict(state)

    together(runtime, "start of fleet.load()", lambda: None, None)
    together(runtime, "fleet.load()", read)
    together(runtime, "fleet.load() of the tables", lambda: on_first(runtime, put), patience(runtime))
    together(runtime, "end of fleet.load()", apply)
    if tables is not None:
        together(runtime, "fleet.load() of dense parameters", lambda: on_first(runtime, tables.push_dense), patience(runtime))
        tables.pull_dense()


def _replace(new: str, target: str) -> None:
    """Put one directory in another's place; the old one goes last."""
    replaced = f"{target}.old"
    disk.remove_tree(replaced)
    if os.path.isdir(target):
        disk.rename(target, replaced)
    disk.rename(new, target)
    disk.remove_tree(replaced)
