"""The directory of a run: plain files, one driver at a time.

run.json      what ran: options, functions and what they depend on, Python, host
journal       what is finished (journal.py)
lock          held by the driver; names its process
members/      3.log, 3.1.log, 3.attempt2.log: what each member printed; absent if it printed nothing
results/      large results; journal and lists refer to them by place
workers/      what a worker has printed for the member it runs now
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
import weakref
from typing import Any

from fleet.errors import ConfigError


class RunDirectory:
    """A directory that this process holds. Without a path it is a temporary one, deleted with this object."""

    def __init__(self, path: str | None) -> None:
        self.temporary = path is None
        self.path = os.path.abspath(path) if path is not None else tempfile.mkdtemp(prefix="fleet-run-")
        try:
            for folder in ("members", "results", "workers"):
                os.makedirs(os.path.join(self.path, folder), exist_ok=True)
            self._lock = os.open(os.path.join(self.path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            what = f"run_dir cannot be used: {error.strerror}"
            raise ConfigError(what, at=self.path, fix="another run_dir, or make room") from error
        self._take()
        self._clean = weakref.finalize(self, shutil.rmtree, self.path, True) if self.temporary else None

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._lock, 100, 0).decode(errors="replace").strip()
            os.close(self._lock)
            raise ConfigError(
                f"another driver is running in this run directory ({owner or 'it has not said who it is'})",
                at=self.path,
                fix="wait for it, or take another run_dir",
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode(), 0)

    def file(self, *names: str) -> str:
        """Return the path of a file in it."""
        return os.path.join(self.path, *names)

    def read_description(self) -> dict[str, Any]:
        """Return what `describe` wrote last; {} if nothing, or nothing readable."""
        try:
            with open(self.file("run.json"), encoding="utf-8") as file:
                found = json.load(file)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def describe(self, said: dict[str, Any]) -> None:
        """Write run.json, whole or not at all."""
        whole = {"python": sys.version.split()[0], "host": os.uname().nodename, "pid": os.getpid(), "began": time.time(), **said}
        with open(self.file("run.json.part"), "w", encoding="utf-8") as file:
            json.dump(whole, file, indent=1, default=repr)
        os.replace(self.file("run.json.part"), self.file("run.json"))

    def keep(self) -> None:
        """Leave a temporary directory on disk: an error message points into it."""
        if self._clean is not None:
            self._clean.detach()

    def release(self) -> None:
        """Let other drivers in; the files stay as long as this object, or for good if the user named the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
