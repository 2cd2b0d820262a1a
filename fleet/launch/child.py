"""A process of a run, as the launcher holds it."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from fleet.launch.spec import ProcessSpec


class Child:
    """A started process. ``status`` is None while it runs, then as waitstatus_to_exitcode has it."""

    def __init__(self, spec: ProcessSpec, pid: int, log_path: str) -> None:
        self.spec, self.pid, self.log_path = spec, pid, log_path
        self.pidfd = os.pidfd_open(pid)
        self.status: int | None = None
        self.exit_ns = 0
        self.signalled = False
        self.record_seen_s: float | None = None
        self.frozen = False  # it was found stopped when the others lost it

    def note_exit(self) -> None:
        """Read how it ended, and leave it unreaped."""
        result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if result is not None:
            self.exit_ns = time.monotonic_ns()
            self.status = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    def send(self, number: int) -> None:
        """Signal this process alone."""
        if self.status is None:
            self.signalled = True
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def send_group(self, number: int) -> None:
        """Signal its whole group; its number is still its own, because it is not reaped before the end."""
        self.signalled = self.signalled or self.status is None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def is_stopped(self) -> bool:
        """Say whether somebody has stopped it (SIGSTOP, a debugger) and not let it go on."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
        except (OSError, IndexError):
            return False
