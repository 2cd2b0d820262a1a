"""Start the fault tests' job under the launcher, and judge what it leaves behind."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import kill_harness
from kill_harness import Run

from fleet import shelf
from fleet.parameter_server.service import Service
from fleet.parameter_server.snapshot import manifest

SCRIPT = str(Path(__file__).resolve().parent / "train.py")


def start(directory: Path, *arguments: str, servers: int = 2, trainers: int = 2, flags: tuple[str, ...] = (),
          **environ: str) -> Run:  # fmt: skip
    """Start the job in ``directory``, with its checkpoints in ``directory/ckpt``."""
    directory.mkdir(exist_ok=True)
    common = ["--server_num", str(servers), "--trainer_num", str(trainers), "--device", "cpu", "--log_dir", "logs"]
    return kill_harness.start([*common, *flags, "--grace", "5", SCRIPT, str(directory / "ckpt"), *arguments], directory, environ)


def count(directory: Path, block: dict[str, Any], *flags: str, epochs: int = 3, **environ: str) -> Run:
    """Start the job whose rows count its steps: two servers, two trainers."""
    directory.mkdir(exist_ok=True)
    common = ["--server_num", "2", "--trainer_num", "2", "--device", "cpu", "--log_dir", "logs", "--grace", "5"]
    script = str(Path(SCRIPT).with_name("count.py"))
    environ["BLOCK"] = json.dumps(block)
    return kill_harness.start([*common, *flags, script, str(directory / "ckpt"), str(epochs)], directory, environ)


def counted(run: Run, trainer: int = 0) -> dict[str, float]:
    """Return what the job found at its end: steps, and what rows and bias have lost."""
    words = next(line for line in run.log(f"trainer-{trainer}").splitlines() if line.startswith("steps ")).split()
    return {name: float(value) for name, value in zip(words[::2], words[1::2], strict=True)}


def tables_of(path: Path) -> Service:
    """Return the tables of a checkpoint, each file of its snapshot and of those that it continues verified."""
    service = Service(0, 1, 2)
    service.resume(manifest.chain(str(path / "tables")))
    return service


def checkpoints(directory: Path) -> list[Path]:
    """Return the complete checkpoints, oldest first, each one verified: every file, and every row of the tables."""
    found = sorted((directory / "ckpt").glob("step-*"))
    for path in found:
        shelf.read(str(path))
        assert all(rows.size for rows in tables_of(path).tables.rows), path
    return found


def is_over(run: Run) -> None:
    """Check that no process of the run is left."""
    assert kill_harness.survivors_after(run, 2.5) == [], run.err


def end(run: Run) -> None:
    """Clean up after a test that failed."""
    if run.process.poll() is None:
        os.kill(run.process.pid, 9)
        run.process.wait(10)
    kill_harness.survivors_after(run, 5.0)


def weights(path: Path) -> dict[str, Any]:
    """Return every tensor that fleet.save wrote; rows and row states of tables ordered by key."""
    import paddle
    from safetensors.numpy import load_file

    found = {name: value.numpy() for name, value in paddle.load(str(path)).items()}
    for table in (path.parent / f"{path.name}.tables").iterdir():
        if table.is_dir():
            parts = [load_file(p) for p in sorted(table.glob("*.safetensors"))]
            order = np.argsort(np.concatenate([p["keys"] for p in parts]))
            found |= {f"{table.name}/{n}": np.concatenate([p[n] for p in parts])[order] for n in parts[0]}
    return found
