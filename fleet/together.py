"""One trainer's failure is raised by all: how trainers go through the phases of saving and loading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fleet.errors import ConfigError, SnapshotError
from fleet.runtime import Runtime

WRITE_S = 3600.0  # how long trainers wait for one that writes: a disk's time, not a network's


def patience(runtime: Runtime) -> float | None:
    """Return how long to wait in a meeting to which trainer 0 brings the work: the others as long as a disk takes."""
    return WRITE_S if runtime.role.rank else None


def together(runtime: Runtime, what: str, work: Callable[[], None], wait_s: float | None = WRITE_S) -> None:
    """Do this trainer's part, then tell all whether it went well: one trainer's failure is raised by all.

    ``wait_s=None`` waits ``timeout_s`` for the others: for the first of several, where a trainer may have called nothing.
    """
    failure: SnapshotError | ConfigError | None = None
    try:
        work()
    except OSError as error:
        fix = "free space or give another directory; what was saved before is as it was"
        failure = SnapshotError(f"{what} failed: {error.strerror}", at=str(error.filename or what), fix=fix)
    except (SnapshotError, ConfigError) as error:
        failure = error
    texts = runtime.meet(what, b"" if failure is None else f"{failure.what}\0{failure.at}\0{failure.fix}".encode(), wait_s)
    if failure is not None:
        raise failure
    for rank, text in enumerate(texts):
        if text:
            words, at, fix = text.decode().split("\0")
            raise SnapshotError(f"trainer {rank}: {words}", at=at, fix=fix)


def on_first(runtime: Runtime, work: Callable[[], Any]) -> None:
    """Do a part that trainer 0 does for all."""
    if runtime.role.rank == 0:
        work()
