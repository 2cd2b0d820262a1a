"""The launcher's hold on its keeper (``keeper.py``): starts it, tells it the sessions of the run, replaces one that was killed.

The keeper ends the run once its pipe closes, which it does when the launcher dies, however it dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from fleet.launch import keeper

MAX_KEEPERS = 4
_BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # a Ctrl-C is for the launcher


class Keeping:
    """One run's keeper, and those after it.

    Args:
        run_id: what the run's processes carry.
        socket_dir: removed when the run is ended.
    """

    def __init__(self, run_id: str, socket_dir: str) -> None:
        self._run_id, self._socket_dir = run_id, socket_dir
        self.fd = -1  # its pidfd; readable once it has ended. -1: there is none
        self._pid = self._pipe = -1
        self._num_started = 0
        self._sessions: list[int] = []

    def start(self) -> int:
        """Start the keeper, or another one in place of one that was killed; return its pidfd.

        Raises:
            OSError: the memory, the descriptors or the number of processes gave out.
        """
        self._num_started += 1
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            command = (sys.executable, "-I", "-S", os.path.abspath(keeper.__file__), self._run_id, self._socket_dir)
            silent = ((os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_DUP2, 1, 2))
            actions = ((os.POSIX_SPAWN_DUP2, read, 0), *silent)
            self._pid = os.posix_spawn(command[0], command, {}, file_actions=actions, setsid=True, setsigmask=_BLOCKED)
        finally:
            os.close(read)
        if self._pipe >= 0:
            os.close(self._pipe)
        self._pipe = write
        self.fd = os.pidfd_open(self._pid)
        for session in self._sessions:
            self._tell(session)
        return self.fd

    def add(self, session: int) -> None:
        """Name a session of the run."""
        self._sessions.append(session)
        self._tell(session)

    def replace(self) -> str:
        """Reap a keeper that has ended and start another, a few times; return what is to be said."""
        os.waitpid(self._pid, 0)
        os.close(self.fd)
        self.fd = self._pid = -1
        if self._num_started < MAX_KEEPERS:
            self.start()
            return "fleet: WARNING: somebody ended the keeper; started another\n"
        return "fleet: WARNING: the keeper was ended again; without it kill -9 of this launcher may leave processes\n"

    def end(self) -> None:
        """Dismiss it: nothing of the run is left."""
        if self._pid > 0:
            os.kill(self._pid, signal.SIGKILL)  # our own child, not reaped yet: the number is still its own
            os.waitpid(self._pid, 0)
        for fd in (self.fd, self._pipe):
            if fd >= 0:
                os.close(fd)

    def _tell(self, session: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # its end is noticed by its pidfd
            os.write(self._pipe, b"%d\n" % session)
