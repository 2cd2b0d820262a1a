"""A local worker: ``python -c ... FD DRIVER_PID``, a plain child process that runs calls until its connection ends.

It is no fork and imports no ``__main__``: functions come by value (cloudpickle) or from modules on the driver's ``sys.path``, so
notebooks, ``python -`` and scripts without a guard work. The kernel kills it when its driver dies.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Any

from fleet.fanout import call as calls
from fleet.fanout import chain, seeds
from fleet.fanout.call import member_name
from fleet.fanout.current import as_member
from fleet.fanout.parcel import Packed, Place, pack, unpack, write_file
from fleet.fanout.wire import Inbox, receive, send

PR_SET_PDEATHSIG, SIGKILL = 1, 9


def main(descriptor: int, driver: int) -> None:
    """Serve calls from a socket. The C library's view of the process is needed: parent-death signal, flushing of its buffers."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != driver:  # it died before prctl: the signal will never come
        os._exit(128 + SIGKILL)
    os.set_inheritable(descriptor, False)
    inbox = Inbox()
    worker: Worker | None = None
    while (messages := receive(descriptor, inbox)) is not None:
        for message in messages:
            if worker is None:
                worker = Worker(descriptor, libc, **message)
            elif message[0] == "program":
                worker.programs[message[1]] = Packed(message[2], tuple(Place(*place) for place in message[3]))
            else:
                for one in message[1]:
                    worker.serve(*one)


class Worker:
    """What a worker knows: its programs (a level each, unpickled at first use), its log, where large results go."""

    def __init__(self, connection: int, libc: Any, *, path: list[str], run_dir: str, name: str, cpus: float) -> None:
        sys.path[:] = path
        self.connection, self.libc, self.name, self.cpus = connection, libc, name, cpus
        self.programs: dict[int, Packed | chain.Level] = {}
        self.results = os.path.join(run_dir, "results")
        self.log = MemberLog(run_dir, name)
        seeds.watch_imports()

    def serve(
        self, ticket: int, level: int, path: tuple[int, ...], attempt: int, seed: int | None, body: bytes, places: tuple[Place, ...]
    ) -> None:
        """Run one call and send how it ended."""
        begin = time.perf_counter()
        if seed is not None:
            seeds.sow(seed)
        state, packed, failure = calls.OK, Packed(b""), None
        with as_member(path, attempt, seed, self.cpus):
            try:
                value = chain.run(self._program(level), unpack(Packed(body, places)))
                if value is chain.DROPPED:
                    state = calls.DROPPED
                else:
                    packed = self._packed(value, level, path, attempt)
            except BaseException as error:  # noqa: BLE001  whatever a member raises is sent to the driver
                state, failure = calls.ERROR, calls.packed_failure(error)
        seconds = time.perf_counter() - begin
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # the member closed or replaced it: that is its affair
                continue
        self.libc.fflush(None)
        log = self.log.end(path, attempt)
        send(self.connection, (ticket, state, packed.body, packed.places, seconds, log, failure))

    def _program(self, number: int) -> chain.Level:
        level = self.programs[number]
        if isinstance(level, Packed):
            level = self.programs[number] = unpack(level)
        assert isinstance(level, chain.Level)
        return level

    def _packed(self, value: Any, level: int, path: tuple[int, ...], attempt: int) -> Packed:
        where = os.path.join(self.results, f"{member_name(path, attempt)}.level{level}")
        keep = lambda buffers: write_file(where, buffers)  # noqa: E731
        program = self.programs[level]
        if isinstance(program, chain.Level) and program.spreads:
            return pack([pack(item, lambda b, i=i: write_file(f"{where}.{i}", b)) for i, item in enumerate(value)], keep)  # type: ignore[misc]
        try:
            return pack(value, keep)
        except OSError:  # the disk is full
            raise
        except Exception as error:
            from fleet.fanout.blame import not_picklable
            from fleet.fanout.failure import member_text

            raise not_picklable(value, error, what="its result", at=member_text(path)) from error


class MemberLog:
    """File descriptors 1 and 2 of the worker. A member that printed something leaves them to a file of its own."""

    def __init__(self, run_dir: str, name: str) -> None:
        self.scratch = os.path.join(run_dir, "workers", f"{name}.log")
        self.members = os.path.join(run_dir, "members")
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]

    def end(self, path: tuple[int, ...], attempt: int) -> str:
        """Give what was printed the member's name and begin anew; return the file, "" if nothing was printed.

        A child that the member left behind keeps writing into the member's file, where it belongs.
        """
        if os.lseek(1, 0, os.SEEK_END) == 0:
            return ""
        final = os.path.join(self.members, f"{member_name(path, attempt)}.log")
        try:
            os.rename(self.scratch, final)
        except OSError:  # nothing to name: the file was removed
            final = ""
        open_log(self.scratch)
        return final


def open_log(path: str) -> None:
    """Let file descriptors 1 and 2 be a fresh file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
