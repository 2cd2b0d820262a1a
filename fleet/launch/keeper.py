"""The keeper: ends a run whose launcher died without ending it. ``python -I -S keeper.py RUN_ID SOCKET_DIR < pipe``

The launcher holds the other end of the pipe and writes the session of each process that it starts. When the pipe closes, the
launcher is dead (a launcher that ends in good order kills its keeper last): the keeper then kills every process that carries the
run's id in its environment or belongs to one of those sessions, until none is left, and removes the socket directory.

It is started with all signals of a terminal blocked, in a session of its own, with an empty environment: nothing that ends the
launcher or the trainers reaches it. Its functions are the launcher's own way of looking for processes that are left.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

SIGKILL = 9
NO_RUN = "\n"  # the id of no run: only sessions count then
SCAN_INTERVAL_S = 0.02
DEADLINE_S = 10.0  # a process in an uninterruptible wait cannot be killed by anybody


def processes_of(run_id: str, sessions: frozenset[int] = frozenset()) -> list[int]:
    """Return the ids of the living processes of a run, this one excepted. Never by name.

    A process counts if it was started with ``FLEET_RUN_ID=run_id``, or if it is in one of ``sessions`` (which finds those
    that overwrote or cleared their environment).
    """
    own = os.getpid()
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid in pids if pid != own and belongs(pid, run_id, sessions)]


def belongs(pid: int, run_id: str, sessions: frozenset[int]) -> bool:
    """Say whether a process is alive (no zombie) and part of the run."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, _, _, session = file.read().rpartition(b")")[2].split()[:4]
        if state in b"ZX":
            return False
        if int(session) in sessions:
            return True
        with open(f"/proc/{pid}/environ", "rb") as file:
            return b"FLEET_RUN_ID=" + run_id.encode() in file.read().split(b"\0")
    except (OSError, ValueError):  # gone meanwhile, or another user's
        return False


def send(pid: int, signal_number: int, run_id: str, sessions: frozenset[int] = frozenset()) -> None:
    """Signal a process of the run; a process that took over its number meanwhile is never hit."""
    from signal import pidfd_send_signal

    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if belongs(pid, run_id, sessions):  # looked at after the pidfd was taken, so it is the same process
            pidfd_send_signal(fd, signal_number)
    except OSError:
        pass  # it ended by itself
    finally:
        os.close(fd)


def kill_all(run_id: str, sessions: frozenset[int]) -> None:
    """Kill the run's processes until two looks in a row find none.

    Two: a child between ``vfork`` and ``exec`` does not carry the id yet.
    """
    deadline, empty = time.monotonic() + DEADLINE_S, 0
    while empty < 2 and time.monotonic() < deadline:
        found = processes_of(run_id, sessions)
        for pid in found:
            send(pid, SIGKILL, run_id, sessions)
        empty = 0 if found else empty + 1
        time.sleep(SCAN_INTERVAL_S)


def remove_tree(path: str) -> None:
    """Remove a directory and what is in it; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                remove_tree(entry.path)
            else:
                os.unlink(entry.path)
        os.rmdir(path)


def main() -> None:
    """Read sessions until the pipe closes, then end the run."""
    run_id, socket_dir = sys.argv[1:]
    text = b""
    while chunk := os.read(0, 4096):
        text += chunk
    kill_all(run_id, frozenset(int(line) for line in text.split()))
    remove_tree(socket_dir)


if __name__ == "__main__":
    main()
