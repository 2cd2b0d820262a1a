"""examples/strategies: a flag for every strategy; a run says what it cost beside the plain one."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import kill_harness

from fleet.strategy import kinds

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "strategies"
SMALL = ["--samples", "1024", "--width", "32", "--batch_size", "32"]
FLOATS = 64 * 32 + 2 * 32 * 32 + 3 * 3 * 32 + 10 * 32 + 10  # weights; biases and batch norms; the last layer


def run(folder: Path, *flags: str) -> str:
    """Run a job of two trainers; return what trainer 0 said."""
    command = ["--trainer_num", "2", "--device", "cpu", "--log_dir", "logs", str(FOLDER / "train.py"), *SMALL, *flags]
    job = kill_harness.start(command, folder)
    assert job.wait(100) == 0, job.err
    assert kill_harness.survivors_after(job, 3.0) == []
    said = job.log("trainer-0")
    shutil.rmtree(folder / "logs")  # the next job finds none
    return said


def test_a_run_beside_the_plain_one(tmp_path: Path) -> None:
    assert re.search(r"^plain: [\d,]+ bytes sent", run(tmp_path), re.M)
    found = re.search(r"beside plain: ([\d.]+) of the bytes", run(tmp_path, "--bf16_allreduce", "--gradient_merge", "k_steps=2"))
    assert found and 0.25 <= float(found[1]) < 0.26  # half the bytes, every second batch; and what trainers agree on
    (runs,) = json.loads((tmp_path / "strategies.json").read_text()).values()
    assert runs["plain"]["bytes_a_batch"] >= 4 * FLOATS and runs["plain"]["optimizer_bytes"] >= 4 * FLOATS


def test_a_flag_for_every_strategy_and_a_word_on_each() -> None:
    readme = (FOLDER / "README.md").read_text()
    assert [name for name in kinds() if not re.search(rf"`[^`|]*--{name}\b", readme)] == []
