"""Long-lived trainer processes for tests: starting Paddle costs seconds, a call costs nothing.

    with Trainers(2) as trainers:
        trainers.run("collective.jobs:train", optimizer="sgd")   # -> [result of trainer 0, result of trainer 1]

Each process has FLEET_* variables as under fleet.launch and has called fleet.init(). Functions are named
``module:function`` relative to tests/, run in the main thread, take and return picklable values.
"""

from __future__ import annotations

import importlib
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

TESTS = os.path.dirname(os.path.abspath(__file__))


class Failed(AssertionError):
    """A function raised in a trainer."""


class Trainers:
    """Start ``n`` trainers; ``with`` ends them.

    Args:
        n: world size.
        servers: endpoints of parameter servers, given to the trainers as FLEET_SERVERS.
        init: let each call fleet.init() at its start.
        env: further variables; may be a function of the rank.
        python: interpreter, for tests on another Paddle.
    """

    def __init__(self, n: int, servers: tuple[str, ...] = (), init: bool = True, env: Any = None, python: str = sys.executable):
        self.n = n
        self._directory = tempfile.TemporaryDirectory(prefix="fleet-test-")
        self.processes: list[subprocess.Popen[bytes]] = []
        self._lines: list[Connection] = []
        for rank in range(n):
            mine, theirs = socket.socketpair()
            variables = {k: v for k, v in os.environ.items() if not k.startswith(("FLEET_", "PADDLE_"))}
            variables.update(
                FLEET_RANK=str(rank), FLEET_WORLD_SIZE=str(n), FLEET_LOCAL_RANK=str(rank), FLEET_LOCAL_SIZE=str(n),
                FLEET_CONTROL=f"unix:{self._directory.name}/control", OMP_NUM_THREADS="1",
                PYTHONPATH=os.pathsep.join([os.path.dirname(TESTS), TESTS, variables.get("PYTHONPATH", "")]),
            )  # fmt: skip
            if servers:
                variables["FLEET_SERVERS"] = ",".join(servers)
            variables.update(env(rank) if callable(env) else env or {})
            with open(self.log_path(rank), "wb") as log:
                command = [python, os.path.abspath(__file__), str(theirs.fileno()), str(int(init))]
                self.processes.append(subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=log,
                                                       stderr=log, pass_fds=[theirs.fileno()]))  # fmt: skip
            theirs.close()
            self._lines.append(Connection(mine.detach()))

    def __enter__(self) -> Trainers:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            for process in self.processes:
                process.kill()
        self.end()

    def log_path(self, rank: int) -> str:
        return os.path.join(self._directory.name, f"trainer-{rank}.log")

    def log(self, rank: int) -> str:
        """Return what trainer ``rank`` has printed so far."""
        with open(self.log_path(rank), encoding="utf-8", errors="replace") as file:
            return file.read()

    def run(self, what: str, /, timeout_s: float = 60, **kwargs: Any) -> list[Any]:
        """Call ``module:function`` in every trainer at once; return the results in rank order.

        Raises:
            Failed: a trainer raised, died or did not answer in time; with its traceback and its output.
        """
        outcomes = self.outcomes(what, timeout_s=timeout_s, **kwargs)
        for rank, outcome in enumerate(outcomes):
            if isinstance(outcome, BaseException):
                trace = getattr(outcome, "remote_traceback", "")
                raise Failed(f"trainer {rank}: {outcome!r}\n{trace}\n--- its output\n{self.log(rank)[-3000:]}") from outcome
        return outcomes

    def outcomes(self, what: str, /, timeout_s: float = 60, **kwargs: Any) -> list[Any]:
        """As :meth:`run`, but a trainer that raised or died yields its exception (EOFError if it died)."""
        for line in self._lines:
            try:
                line.send((what, kwargs))
            except OSError:
                pass  # it died; its answer below says so
        deadline = time.monotonic() + timeout_s
        return [self._answer(line, deadline) for line in self._lines]

    def end(self) -> list[int]:
        """Ask all to end, and return their exit statuses; one that does not within 15 s is killed and fails the test."""
        for line in self._lines:
            line.close()
        try:
            return [process.wait(15) for process in self.processes]
        except subprocess.TimeoutExpired:
            logs = "\n".join(f"--- trainer {r}\n{self.log(r)[-2000:]}" for r in range(self.n))
            raise Failed(f"a trainer did not end\n{logs}") from None
        finally:
            for process in self.processes:
                process.kill()
                process.wait()

    @staticmethod
    def _answer(line: Connection, deadline: float) -> Any:
        try:
            if not line.poll(max(0.0, deadline - time.monotonic())):
                return TimeoutError("no answer in time")
            error, value, trace = line.recv()
        except (EOFError, OSError) as gone:
            return EOFError(f"the process died: {gone!r}")
        if error:
            value.remote_traceback = trace
        return value


def _serve(line: Connection, init: bool) -> None:
    if init:
        import fleet.runtime

        fleet.runtime.init()
    while True:
        try:
            name, kwargs = line.recv()
        except EOFError:
            return
        try:
            module, function = name.split(":")
            answer = (False, getattr(importlib.import_module(module), function)(**kwargs), "")
        except Exception as error:  # noqa: BLE001 - handed to the test
            answer = (True, _picklable(error), traceback.format_exc())
        line.send(answer)


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:  # noqa: BLE001 - any failure to pickle
        return RuntimeError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.modules["trainers"] = sys.modules["__main__"]
    _serve(Connection(int(sys.argv[1])), sys.argv[2] == "1")
