"""``python keeper.py RUN DIRECTORY``: ends what a pool left behind once standard input ends, as it does however the driver dies.

Workers die with their driver by the kernel's hand; this is for the children that members started. They carry the run's id in
their environment. It runs by path, without site-packages, and imports next to nothing.
"""

from __future__ import annotations

import os
import signal
import sys


def main(run: str, directory: str) -> None:
    """Wait for the end of the driver or of its pool; kill every process of the run; remove its shared memory."""
    while os.read(0, 1024):
        pass
    mark = f"FLEET_FANOUT_RUN={run}".encode()
    for _ in range(3):  # a process may start another one while it is looked for
        found = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid != os.getpid() and _has(pid, mark)]
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:  # it ended by itself
                continue
        if not found:
            break
    if directory and os.path.isdir(directory):
        for name in os.listdir(directory):
            os.unlink(os.path.join(directory, name))
        os.rmdir(directory)


def _has(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:  # it ended, or is somebody else's
        return False


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
