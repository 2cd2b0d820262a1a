"""Run a script as the trainers of one job, without the launcher and without Paddle: real processes that meet on a socket."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FOREIGN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TRAINING_ROLE", "POD_IP",
           "COLUMNS", "LINES")  # the last two: pytest-xdist sets them, and a terminal of a test has its own size


class Done(NamedTuple):
    """How one process ended."""

    status: int
    out: str
    err: str


def clean_environ(**given: str) -> dict[str, str]:
    """Return this process's environment without what any launcher wrote, with this tree importable."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLEET_", "PADDLE_", "OMPI_", "SLURM_")) and k not in FOREIGN}
    return {**kept, "PYTHONPATH": str(ROOT), **given}


def alone(script: str, *arguments: str, timeout_s: float = 30, **environ: str) -> Done:
    """Run a script in one process that nobody launched."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), *arguments], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=timeout_s, env=clean_environ(**environ))  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def trainers(directory: Path, script: str, world_size: int = 2, timeout_s: float = 30, **environ: str) -> list[Done]:
    """Run a script as ``world_size`` trainers; ``import fleet`` and ``fleet.init()`` stand before it."""
    whole = "import fleet\nfleet.init()\n" + textwrap.dedent(script)
    running = []
    for rank in range(world_size):
        mine = {
            "FLEET_RANK": str(rank), "FLEET_WORLD_SIZE": str(world_size), "FLEET_LOCAL_RANK": str(rank),
            "FLEET_LOCAL_SIZE": str(world_size), "FLEET_CONTROL": f"unix:{directory}/control",
        }  # fmt: skip
        running.append(subprocess.Popen([sys.executable, "-c", whole], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, env=clean_environ(**mine, **environ)))  # fmt: skip
    try:
        ends = [(process, *process.communicate(timeout=timeout_s)) for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return [Done(process.returncode, out, err) for process, out, err in ends]
