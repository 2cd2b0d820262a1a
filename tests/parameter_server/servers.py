"""Real server processes for tests, and a trainer's client to them without Paddle.

    with Servers(2, world_size=3) as servers:
        client = servers.client(rank=0)
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fleet.parameter_server.client import Client
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.link import SocketLink
from fleet.parameter_server.spec import TableSpec

ROOT = Path(__file__).resolve().parents[2]
# The deadlines are constants of the module; a launcher of three lines shortens them, so that silence can be tested in a second.
IMPATIENT = """
import sys
from fleet.parameter_server import server
server.GREETING_S, server.BODY_S, server.RETURN_S, server.MAX_GREETINGS = 1.0, 0.7, 0.7, 64
sys.exit(server.main())
"""
SECRET = "the secret of this test"


class Servers:
    """Start ``n`` servers; ``with`` ends them and fails if one wrote a trace of a bug.

    Args:
        argv: what Python runs instead of ``-m fleet.parameter_server.server``.
    """

    def __init__(self, n: int = 1, world_size: int = 1, tcp: bool = False, argv: tuple[str, ...] = (),
                 env: dict[str, str] | None = None) -> None:  # fmt: skip
        self.n, self.world_size, self._env = n, world_size, env or {}
        self._argv = argv or ("-m", "fleet.parameter_server.server")
        self._directory = tempfile.TemporaryDirectory(prefix="fleet-ps-")
        self.directory = Path(self._directory.name)
        self.addresses = tuple(f"tcp:127.0.0.1:{_free_port()}" if tcp else f"unix:{self.directory}/{i}" for i in range(n))
        self._clients: list[Client] = []
        self.processes = [self._start(i) for i in range(n)]
        for i in range(n):
            self.until(i, "listens on", timeout_s=30)

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
        for client in self._clients:
            client.close()
        for process in self.processes:
            process.kill()
            process.wait()
        logs = "".join(self.log(i) for i in range(self.n))
        self._directory.cleanup()
        assert kind is not None or "Traceback" not in logs, logs

    @property
    def environment(self) -> dict[str, str]:
        """What servers and trainers of this job have in common."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLEET_", "PADDLE_")) and k not in ("TRAINING_ROLE",)}
        return {**kept, "FLEET_SERVERS": ",".join(self.addresses), "FLEET_SECRET": SECRET, "FLEET_WORLD_SIZE": str(self.world_size),
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])}  # fmt: skip

    def log(self, server: int = 0) -> str:
        """What a server has printed so far."""
        return (self.directory / f"server-{server}.log").read_text(errors="replace")

    def until(self, server: int, text: str, timeout_s: float = 20, times: int = 1) -> str:
        """Wait until a server's log holds a text; return the log."""
        end = time.monotonic() + timeout_s
        while self.log(server).count(text) < times:
            assert time.monotonic() < end, f"server {server} never said {text!r}: {self.log(server)}"
            assert self.processes[server].poll() is None or text in self.log(server), self.log(server)
            time.sleep(0.01)
        return self.log(server)

    def links(self, rank: int = 0, incarnation: int = 1, timeout_s: float = 20, through: tuple[str, ...] = (),
              return_s: float = 0, job: int = 0) -> list[Any]:  # fmt: skip
        """Return a trainer's links; ``through`` are the proxies' addresses instead of the servers' own."""
        links = enumerate(through or self.addresses)
        return [SocketLink(a, i, SECRET, rank, incarnation, timeout_s, self.n, return_s, job) for i, a in links]

    def client(self, rank: int = 0, mode: str = "sync", incarnation: int = 1, timeout_s: float = 20,
               through: tuple[str, ...] = (), staleness: int = 0, dtype: str = "float32") -> Client:  # fmt: skip
        """Return a trainer's client; it is closed with the servers."""
        client = Client(self.links(rank, incarnation, timeout_s, through), Mode(mode, staleness), timeout_s, dtype)
        self._clients.append(client)
        return client

    def again(self, index: int, **env: str) -> None:
        """Kill a server and start it again; its log goes on."""
        self.processes[index].kill()
        self.processes[index].wait()
        self.processes[index] = self._start(index, **env)

    def _start(self, index: int, **more: str) -> subprocess.Popen[bytes]:
        environment = {**self.environment, "FLEET_ROLE": "server", "FLEET_SERVER_INDEX": str(index), **self._env, **more}
        with open(self.directory / f"server-{index}.log", "ab") as log:
            command = [sys.executable, "-u", *self._argv]
            return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def spec(name: str = "t", dim: int = 4, optimizer: str = "sgd", **changes: Any) -> TableSpec:
    """Return a table's spec with small defaults: rows begin at 1."""
    given: dict[str, Any] = dict(name=name, dim=dim, optimizer=optimizer, hyper=(), initializer="constant", init_args=(1.0, 0.0),
                                 seed=7, vocabulary=0)  # fmt: skip
    return TableSpec(**{**given, **changes})


def stop(pid: int) -> None:
    """Stop a process and return once it has stopped: on a busy machine it may still answer for a moment."""
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + 10
    while any(_state(task) not in "Tt" for task in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < end, f"process {pid} does not stop"
        time.sleep(0.001)


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "T"  # the thread ended


def _free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])
