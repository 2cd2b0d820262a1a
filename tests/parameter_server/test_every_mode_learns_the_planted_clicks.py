"""examples/ctr under the launcher, 2 trainers and 2 servers, in every mode: the AUC of one machine within a bound.

The set is small for a test (60,000 samples, 2 epochs of 106 steps), and one machine reaches its best there: 0.735 behind one
epoch, 0.751 behind two, 0.736 behind three. A mode that is steps behind, or takes too many, shows it. benchmarks/auc.py measures
on more.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WITHIN = {"sync": 0.003, "bounded": 0.02, "half_async": 0.02, "async": 0.02, "geo": 0.02}
OPTIONS = ["--samples", "60000", "--num_buckets", "20011", "--epochs", "2"]


def auc(command: list[str], data: Path) -> float:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLEET_", "PADDLE_"))}
    done = subprocess.run([sys.executable, *command, *OPTIONS, "--data", str(data)], env={**kept, "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, timeout=240)  # fmt: skip
    found = re.search(r"AUC (\d\.\d+)", done.stdout)
    assert done.returncode == 0 and found, done.stdout[-2000:] + done.stderr[-2000:]
    return float(found[1])


@pytest.mark.slow
def test_every_mode(tmp_path: Path) -> None:
    alone = auc([str(ROOT / "examples/ctr/single.py")], tmp_path / "data")
    reached = {}
    for mode in WITHIN:
        dense = ", dense: server" if mode == "async" else ""
        (tmp_path / "fleet.yaml").write_text(f"strategy:\n  parameter_server: {{consistency: {mode}{dense}}}\n")
        launch = ["-m", "fleet.launch", "-c", str(tmp_path / "fleet.yaml"), "--device", "cpu", "--log_dir", str(tmp_path / mode),
                  "--server_num", "2", "--trainer_num", "2", str(ROOT / "examples/ctr/train.py")]  # fmt: skip
        reached[mode] = auc(launch, tmp_path / "data")
    print(f"alone {alone}, {reached}")
    assert alone > 0.6
    assert {m: a for m, a in reached.items() if abs(a - alone) > WITHIN[m]} == {}, f"alone {alone}"
