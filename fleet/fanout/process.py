"""One local worker as its driver sees it: the process, the connection, the calls it was given."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from typing import Any

from fleet.fanout.call import Call
from fleet.fanout.parcel import Place
from fleet.fanout.wire import READ_BYTES, Inbox, frame

TERM_S = 2.0  # between SIGTERM and SIGKILL: time for a member's own clean-up
_SEND_BUFFER_BYTES = 1 << 20
# Read by the libraries that members use, before their first import.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS",
            "VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS",
            "FLAGS_paddle_num_threads")  # fmt: skip


def environment(run: str, cpus: float, gpus: list[str] | None) -> dict[str, str]:
    """Return a worker's environment: the driver's, with the member's share of threads and GPUs."""
    share = str(max(1, int(cpus)))
    made = {**os.environ, **dict.fromkeys(_THREADS, share), "FLEET_FANOUT_RUN": run}
    if gpus is not None:
        made["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return made


class Process:
    """A worker process. ``calls``: what it was sent and has not answered, in order; the first is the one that runs."""

    def __init__(self, name: str, run_dir: str, cpus: float, environ: dict[str, str]) -> None:
        self.name = name
        self.scratch = os.path.join(run_dir, "workers", f"{name}.log")
        self.calls: deque[tuple[Call, tuple[Place, ...]]] = deque()
        self.unsent: list[Any] = []
        self.programs: set[int] = set()
        self.begun_at = 0.0  # when the first of `calls` began
        self.ending: tuple[int, Any] | None = None  # (ticket, error): it was told to end because of this call
        self.kill_at = 0.0
        self.connection, theirs = socket.socketpair()
        for end in (self.connection, theirs):  # a frame of many calls goes in one piece
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._inbox, self._outbox = Inbox(), bytearray()
        path = [entry or os.getcwd() for entry in sys.path]
        code = f"import sys; sys.path[:] = {path!r}; from fleet.fanout.worker import main; main({theirs.fileno()}, {os.getpid()})"
        with open(self.scratch, "wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ,
                pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip
        theirs.close()
        self.connection.setblocking(False)
        self.exited = os.pidfd_open(self.popen.pid)
        self.send({"path": path, "run_dir": run_dir, "name": name, "cpus": cpus})

    def send(self, message: Any) -> None:
        """Queue a message; `push` moves it on."""
        self._outbox += frame(message)

    def push(self) -> bool:
        """Send what the socket takes; say whether something is left."""
        while self._outbox:
            try:
                sent = self.connection.send(self._outbox)
            except BlockingIOError:
                return True
            except OSError:  # it died: its exit is noticed elsewhere
                self._outbox.clear()
                return False
            del self._outbox[:sent]
        return False

    def pull(self) -> tuple[list[Any], bool]:
        """Return the messages that are there, and whether the connection goes on."""
        goes_on, found = True, []
        while True:
            try:
                data = self.connection.recv(READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                goes_on = False
                break
            found += self._inbox.take(data)
            if len(data) < READ_BYTES:
                break
        return found, goes_on

    def hang_up(self) -> None:
        """End the connection: the worker leaves once it has read all that it was sent."""
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended already
            return

    def rss_bytes(self) -> int:
        """Return how much memory it holds now."""
        try:
            with open(f"/proc/{self.popen.pid}/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            return 0

    def end_for(self, ticket: int, error: Any) -> None:
        """Ask it to end because of a call: SIGTERM now, SIGKILL after TERM_S."""
        self.ending, self.kill_at = (ticket, error), time.monotonic() + TERM_S
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it and all of its session's processes that are still in its group."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        try:
            if number == signal.SIGKILL:
                os.killpg(self.popen.pid, number)  # not reaped yet, so the number is still its own
            else:
                os.kill(self.popen.pid, number)
        except OSError:  # it has ended, or has not made its group yet
            if number == signal.SIGKILL and self.popen.returncode is None:
                self.popen.kill()

    def has_exited(self, timeout_s: float) -> bool:
        """Wait for its exit, without reaping it."""
        return bool(select.select([self.exited], [], [], max(0.0, timeout_s))[0])

    def reap(self) -> tuple[int, int]:
        """Kill what is left of its group, collect it, and return (wait status, largest size in bytes)."""
        self.kill()
        _, status, usage = os.wait4(self.popen.pid, 0)
        self.popen.returncode = os.waitstatus_to_exitcode(status)
        self.connection.close()
        os.close(self.exited)
        return status, usage.ru_maxrss * 1024
