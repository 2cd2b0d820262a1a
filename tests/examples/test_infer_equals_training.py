"""examples/ctr/infer.py scores raw lines as the trainer that exported scored them: to the bit, with the same matrix kernels.

So the job runs untuned here (docs/tuning.md: on AMD the launcher picks other MKL kernels, which moves a score by 2e-7 of itself).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import kill_harness
import numpy as np
from several import clean_environ

HERE = Path(__file__).resolve().parent
INFER = HERE.parents[1] / "examples/ctr/infer.py"


def test_raw_lines(tmp_path: Path) -> None:
    run = kill_harness.start(["--trainer_num", "1", "--server_num", "2", "--device", "cpu", "--tune", "off", "--log_dir", "logs",
                              str(HERE / "ctr_scores.py"), "--samples", "4000", "--data", "data"], tmp_path)  # fmt: skip
    assert run.wait(100) == 0, run.err
    raw = next((tmp_path / "data").glob("4000-*/test"))
    command = [sys.executable, str(INFER), str(raw), "--served", "data/served"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=clean_environ(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
    scores = np.array(done.stdout.split(), dtype=np.float32)  # nine digits say a float32 exactly
    np.testing.assert_array_equal(scores, np.load(tmp_path / "trained.npy"))
    assert kill_harness.survivors_after(run, 3.0) == []
