"""Code keeps to what Paddle 2.6.2 also has, the newest GPU wheel on PyPI: two trainers and a server on its CPU wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from several import ROOT, clean_environ

WHEELS = ("paddlepaddle==2.6.2", "numpy<2", "protobuf<5", "pyyaml", "setuptools>=64", "wheel", "pybind11>=2.12,<4")
EXAMPLE = ["examples/ctr/{}.py", "--samples", "20000", "--epochs", "2"]

COLLECTIVE = """
import numpy as np, paddle, fleet
from fleet.data import ArrayLoader
fleet.init()
paddle.seed(3 + fleet.rank())  # trainer 0's weights count
model = fleet.distributed_model(paddle.nn.Sequential(paddle.nn.Linear(4, 8), paddle.nn.Tanh(), paddle.nn.Linear(8, 1)))
adam = paddle.optimizer.Adam(0.01, parameters=model.parameters(), grad_clip=paddle.nn.ClipGradByGlobalNorm(0.5))
optimizer = fleet.distributed_optimizer(adam)
x = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
loader = fleet.distributed_loader(ArrayLoader({"x": x, "y": x.sum(1, keepdims=True)}, 7, shuffle=True, seed=1))
for _ in range(3):
    for batch in loader:
        ((model(batch["x"]) - batch["y"]) ** 2).mean().backward()
        optimizer.step()
        optimizer.clear_grad()
print(paddle.__version__, "weights", *(float(v) for p in model.parameters() for v in p.numpy().reshape(-1)[:4]))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """An environment with Paddle 2.6.2, and fleet built for it: its Python, and the variables to run with."""
    if sys.version_info >= (3, 13):
        pytest.skip("Paddle 2.6.2 has no wheel for this Python")
    home = tmp_path_factory.mktemp("paddle-2.6.2")
    python = home / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", str(home / "venv")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-q", "--retries", "5", *WHEELS], check=True)
    environ = clean_environ(FLEET_REQUIRE_CORE="1")
    build = ["setup.py", "-q", "build", "--build-base", str(home / "build"), "--build-lib", str(home / "lib")]
    subprocess.run([str(python), *build], cwd=ROOT, check=True, env=environ)
    return python, {**environ, "PYTHONPATH": str(home / "lib")}


def run(old: tuple[Path, dict[str, str]], directory: Path, *arguments: str) -> str:
    """Run in a directory that holds nothing of this tree, so that the fleet that was built is the one that is used."""
    python, environ = old
    command = [str(python), "-W", "ignore", *arguments]
    none = subprocess.DEVNULL
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300, env=environ, stdin=none)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_two_trainers_equal_one(old: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(COLLECTIVE)

    def weights(*launcher: str) -> list[float]:
        found = re.search(r"^2\.6\.2 weights (.*)$", run(old, tmp_path, *launcher, "train.py"), re.M)
        assert found
        return [float(word) for word in found[1].split()]

    assert weights("-m", "fleet.launch", "--trainer_num", "2", "--device", "cpu") == pytest.approx(weights(), abs=1e-5)


def test_one_server_and_two_trainers_equal_one_machine(old: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    def auc(name: str, *launcher: str) -> float:
        script, *options = EXAMPLE
        out = run(old, tmp_path, *launcher, os.path.join(ROOT, script.format(name)), *options, "--data", str(tmp_path / "data"))
        found = re.search(r"^AUC (\S+),", out, re.M)
        assert found, out
        return float(found[1])

    alone = auc("single")
    assert auc("train", "-m", "fleet.launch", "--server_num", "1", "--trainer_num", "2", "--device", "cpu") == pytest.approx(
        alone, abs=0.003
    )
    assert alone > 0.55
