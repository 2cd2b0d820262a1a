"""A checkpoint on its way to the disk: each trainer writes its files, trainer 0 waits for all and gives the checkpoint its name."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable

from fleet import logger
from fleet.checkpoint.contents import Writers
from fleet.disk import Checksum
from fleet.errors import FleetError, SnapshotError
from fleet.runtime import Runtime
from fleet.together import WRITE_S

KIND = "checkpoint"  # of the notes on the control channel


class Background:
    """Work in a thread of its own, whose failure is kept."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self.failure: FleetError | None = None
        self._thread = threading.Thread(target=self._run, name="fleet-checkpoint", daemon=True)  # joined by wait
        self._thread.start()

    def wait(self) -> None:
        """Return once the work has ended."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        except OSError as error:
            self.failure = failure_of(error)
        except FleetError as error:
            self.failure = error


class Save(Background):
    """Trainer 0's part of a save."""

    def __init__(self, work: Callable[[], None], raises: bool) -> None:
        self.raises = raises
        super().__init__(work)

    def _run(self) -> None:
        super()._run()
        if self.failure is not None and not self.raises:
            warn(self.failure)


class Parts:
    """What the trainers say about the files that they have written; kept by trainer 0."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._changed = threading.Condition()  # guards the notes: they come in the control channel's thread
        self._notes: dict[tuple[int, int], dict[str, object]] = {}  # (step, rank) -> note
        if runtime.role.rank == 0:
            runtime.listen(KIND, self._hear)

    def forget(self) -> None:
        """Forget what was said before: a save begins, and those before it have ended on all trainers."""
        with self._changed:
            self._notes.clear()

    def write(self, step: int, directory: str, writers: Writers) -> None:
        """Write this trainer's files and tell trainer 0 how that went."""
        note: dict[str, object] = {"step": step}
        try:
            note["files"] = {name: write(os.path.join(directory, name)) for name, write in writers.items()}
        except OSError as error:
            failure = failure_of(error)
            note["failure"] = [failure.what, failure.at, failure.fix]
        self._runtime.tell(KIND, json.dumps(note).encode())

    def collect(self, step: int) -> dict[str, Checksum]:
        """Return the files of all trainers once they are written; for trainer 0.

        Raises:
            SnapshotError: a trainer could not write its part, or said nothing for an hour.
        """
        ranks = range(self._runtime.role.world_size)
        with self._changed:
            if not self._changed.wait_for(lambda: all((step, rank) in self._notes for rank in ranks), WRITE_S):
                missing = ", ".join(str(rank) for rank in ranks if (step, rank) not in self._notes)
                fix = "look at their logs and at the disk"
                raise SnapshotError(f"trainers {missing} did not write their part", at="Checkpointer.save()", fix=fix)
            notes = [self._notes[step, rank] for rank in ranks]
        files: dict[str, Checksum] = {}
        for rank, note in enumerate(notes):
            if "failure" in note:
                what, at, fix = map(str, note["failure"])  # type: ignore[call-overload]
                raise SnapshotError(f"trainer {rank}: {what}" if rank else what, at=at, fix=fix)
            files.update(note["files"])  # type: ignore[call-overload]
        return files

    def _hear(self, rank: int, payload: bytes) -> None:
        note = json.loads(payload)
        with self._changed:
            self._notes[note["step"], rank] = note
            self._changed.notify_all()


def failure_of(error: OSError) -> SnapshotError:
    """Return the error for a disk that refused."""
    fix = "free space or give another directory; what was saved before is as it was"
    what = f"the checkpoint could not be written: {error.strerror or error}"
    return SnapshotError(what, at=str(error.filename or "Checkpointer.save()"), fix=fix)


def warn(failure: FleetError) -> None:
    """Say that training goes on without a checkpoint."""
    logger.warning(f"a checkpoint was not written; training goes on, and the ones before are as they were: {failure}")
