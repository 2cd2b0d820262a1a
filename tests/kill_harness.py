"""Start a run, kill one of its processes at a chosen moment, and look at what is left. For tests of every room.

run = start(["--nproc_per_node", "2", "train.py"], cwd=tmp_path)
kill(run, "trainer 1", after_s=0.4)
run.wait(); assert run.status == 137 and "trainer 1 failed first" in run.err
assert survivors_after(run, 2.0) == []
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fleet.launch.keeper import processes_of

ROOT = Path(__file__).resolve().parent.parent
FOREIGN = ("RANK", "WORLD_SIZE", "PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID", "OMP_NUM_THREADS", "GLIBC_TUNABLES")

# Runs the launcher with another program in the place of the servers' own.
DRIVER = """
import sys
from fleet.launch import cli
from fleet.launch.__main__ import launch
sys.exit(launch(cli.parse(sys.argv[2:]), server=(sys.argv[1],)))
"""


class Run:
    """A launcher that was started, and what became of it."""

    def __init__(self, process: subprocess.Popen[bytes], cwd: Path) -> None:
        self.process, self.cwd = process, cwd
        self.status: int | None = None
        self.known_id = ""

    @property
    def out(self) -> str:
        return (self.cwd / "stdout").read_text(errors="replace")

    @property
    def err(self) -> str:
        return (self.cwd / "stderr").read_text(errors="replace")

    @property
    def log_dir(self) -> Path:
        """The run's directory (of the only run below cwd)."""
        found = [p.parent for p in below(self.cwd, "run_id")]
        assert len(found) == 1, found
        return found[0]

    @property
    def run_id(self) -> str:
        """The run's id, or "" if the launcher has not come that far."""
        if not self.known_id:
            for path in below(self.cwd, "run_id"):
                self.known_id = path.read_text().strip()
        return self.known_id

    def log(self, name: str) -> str:
        """The whole log of ``trainer-0`` or ``server-1``."""
        return (self.log_dir / f"{name}.log").read_text(errors="replace")

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for the launcher; its status as a shell has it (128+n for a signal)."""
        code = self.process.wait(timeout_s)
        self.status = 128 - code if code < 0 else code
        return self.status

    def until(self, text: str, timeout_s: float = 20.0, log: str = "trainer-0", times: int = 1) -> None:
        """Wait until a log holds a text."""

        there = wait_for(lambda: self.says(text, log, times), timeout_s)
        assert there, f"{log} never said {text!r}: {self.err}"

    def says(self, text: str, log: str = "trainer-0", times: int = 1) -> bool:
        """Say whether a log holds a text by now."""
        return bool(self.run_id) and any(
            p.read_text(errors="replace").count(text) >= times for p in below(self.cwd, log + ".log")
        )


def below(directory: Path, name: str) -> list[Path]:
    """Return the files of a name below a directory, in which others come and go meanwhile (rglob would raise)."""
    return [Path(folder) / name for folder, _, files in os.walk(directory) if name in files]


def wait_for(condition, timeout_s: float) -> bool:  # type: ignore[no-untyped-def]
    """Look at a condition until it holds; False if it does not in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def start(argv: list[str], cwd: Path, env: dict[str, str] | None = None, command: tuple[str, ...] = ("-m", "fleet.launch")) -> Run:
    """Start a launcher in ``cwd``, with its console in the files stdout and stderr there, in a session of its own."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FLEET_") and k not in FOREIGN}
    environ |= {"PYTHONPATH": str(ROOT), **(env or {})}
    with open(cwd / "stdout", "wb") as out, open(cwd / "stderr", "wb") as err:
        process = subprocess.Popen(
            [sys.executable, *command, *argv],
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    return Run(process, cwd)


def pid_of(run: Run, name: str) -> int | None:
    """Return the process of ``launcher``, ``trainer 1`` or ``server 0``; None if it is not there."""
    if name == "launcher":
        return run.process.pid if run.process.poll() is None else None
    role, _, number = name.partition(" ")
    index = "FLEET_RANK" if role == "trainer" else "FLEET_SERVER_INDEX"
    for pid in processes_of(run.run_id) if run.run_id else ():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                words = file.read().split(b"\0")
            if os.getsid(pid) == pid and f"FLEET_ROLE={role}".encode() in words and f"{index}={number}".encode() in words:
                return pid
        except OSError:
            continue
    return None


def keeper_of(run: Run) -> int | None:
    """Return the keeper's process."""
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if any(w.endswith(b"keeper.py") for w in words) and run.run_id and run.run_id.encode() in words:
            return int(name)
    return None


def kill(run: Run, name: str, after_s: float, number: int = signal.SIGKILL, patience_s: float = 10.0) -> bool:
    """Signal a process ``after_s`` seconds from now, or as soon as it exists; False if it never does or has ended."""
    time.sleep(after_s)
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        pid = pid_of(run, name)
        if pid is not None:
            os.kill(pid, number)
            return True
        if run.process.poll() is not None:
            return False
        time.sleep(0.005)
    return False


def survivors_after(run: Run, seconds: float) -> list[int]:
    """Return the run's processes, its keeper included, that are still there ``seconds`` after now (sooner if none is left)."""

    def left() -> list[int]:
        found = processes_of(run.run_id) if run.run_id else []
        keeper = keeper_of(run)
        return found + ([keeper] if keeper else [])

    wait_for(lambda: not left(), seconds)
    return left()
