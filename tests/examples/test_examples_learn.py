"""Each example alone and as a job, in a small setting: both learn, and end close to each other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import kill_harness
import pytest
from several import clean_environ

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = {
    "bert": ["--sentences", "1280", "--epochs", "3", "--vocabulary", "16", "--batch_size", "16", "--hidden", "32",
             "--learning_rate", "3e-3"],
    "ctr": ["--samples", "12000", "--epochs", "2"],
    "deepfm": ["--samples", "12000", "--epochs", "2"],
    "distribute_ctr": ["--samples", "12000", "--epochs", "2", "--num_buckets", "200003"],
    "resnet50": ["--images", "32", "--epochs", "1", "--size", "32", "--batch_size", "16"],
    "simnet_bow": ["--queries", "3000"],
    "wide_and_deep": ["--samples", "12000", "--epochs", "2"],
    "word2vec": ["--lines", "4000", "--epochs", "3"],
}
RESULT = {"bert": r"guessed right: ([\d.]+)", "resnet50": r"told apart: ([\d.]+)",
          "simnet_bow": r"right pairs ([\d.]+)", "word2vec": r"analogies solved ([\d.]+)"}  # fmt: skip
COLLECTIVE = ("bert", "resnet50")  # the others have servers


def result(name: str, text: str) -> float:
    found = re.search(RESULT.get(name, r"AUC ([\d.]+)"), text)
    assert found, text
    return float(found[1])


# The bounds: the jobs with servers sum float32 in another order (measured: 0.0005); plain Paddle shuffles otherwise than
# fleet, which moves BERT by 0.1 (chance is 1/15); ResNet-50 only runs here, as
# BatchNorm sees half the batch on each trainer; word2vec trains in async, and its 1,560 analogies hang on 80 words.
@pytest.mark.parametrize("name, least, apart", [("ctr", 0.55, 0.003), ("deepfm", 0.6, 0.003), ("bert", 0.3, 0.2),
                                                ("simnet_bow", 0.6, 0.003), ("word2vec", 0.8, 0.15),
                                                pytest.param("distribute_ctr", 0.55, 0.003, marks=pytest.mark.slow),
                                                pytest.param("wide_and_deep", 0.57, 0.003, marks=pytest.mark.slow),
                                                pytest.param("resnet50", 0.0, 1.0, marks=pytest.mark.slow)])  # fmt: skip
def test_alone_and_as_a_job(tmp_path: Path, name: str, least: float, apart: float) -> None:
    done = subprocess.run([sys.executable, str(EXAMPLES / name / "single.py"), *SMALL[name]], cwd=tmp_path, capture_output=True,
                          text=True, timeout=100, env=clean_environ(OMP_NUM_THREADS="1"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    servers = [] if name in COLLECTIVE else ["--server_num", "1"]
    run = kill_harness.start(["--trainer_num", "2", *servers, "--device", "cpu", "--log_dir", "logs",
                              str(EXAMPLES / name / "train.py"), *SMALL[name]], tmp_path)  # fmt: skip
    assert run.wait(100) == 0, run.err
    assert kill_harness.survivors_after(run, 3.0) == []
    single, job = result(name, done.stdout), result(name, run.log("trainer-0"))
    print(f"{name}: alone {single}, job {job}")
    assert single > least and abs(single - job) <= apart, (single, job)
