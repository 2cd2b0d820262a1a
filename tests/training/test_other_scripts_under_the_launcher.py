"""Under fleet.launch: a script in the form of Paddle's documentation, and a fleet.yaml with a mistake in it."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path

import kill_harness
import pytest

PADDLES_OWN = """
import fleet  # was: from paddle.distributed import fleet
import numpy as np
import paddle
from paddle.io import DataLoader, DistributedBatchSampler, TensorDataset

fleet.init(is_collective=True)
strategy = fleet.DistributedStrategy()
paddle.seed(1)
model = paddle.nn.Linear(3, 1)
optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters())
optimizer = fleet.distributed_optimizer(optimizer, strategy)
model = fleet.distributed_model(model)
rng = np.random.default_rng(1)
x = rng.standard_normal((32, 3)).astype("float32")
y = x.sum(1, keepdims=True)
dataset = TensorDataset([paddle.to_tensor(x), paddle.to_tensor(y)])
sampler = DistributedBatchSampler(dataset, batch_size=4, shuffle=True)
for epoch in range(8):
    sampler.set_epoch(epoch)
    for batch, target in DataLoader(dataset, batch_sampler=sampler):
        loss = paddle.nn.functional.mse_loss(model(batch), target)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
fleet.barrier_worker()
print("worker", fleet.worker_index(), "of", fleet.worker_num(), "first", fleet.is_first_worker(), "batches", len(sampler),
      "loss below", float(loss) < 0.05, "sum", float(model.weight.sum()))
"""

YAML_SCRIPT = """
import fleet
fleet.init()
import paddle
net = fleet.distributed_model(paddle.nn.Linear(1, 1))
inner = paddle.optimizer.SGD(parameters=net.parameters())
optimizer = fleet.distributed_optimizer(inner, strategy=fleet.DistributedStrategy(seed=3))
print("in force", fleet.runtime.current("test").strategy)
"""


def launched(tmp_path: Path, script: str, *flags: str) -> kill_harness.Run:
    (tmp_path / "train.py").write_text(textwrap.dedent(script))
    run = kill_harness.start(["--trainer_num", "2", "--device", "cpu", "--log_dir", "logs", *flags, "train.py"], tmp_path)
    run.wait(60)
    assert kill_harness.survivors_after(run, 3.0) == []
    return run


def test_the_form_of_paddles_documentation(tmp_path: Path) -> None:
    run = launched(tmp_path, PADDLES_OWN)
    assert run.status == 0, run.err
    lines = [next(line for line in run.log(f"trainer-{r}").splitlines() if line.startswith("worker")) for r in (0, 1)]
    assert [line.split(" first")[0] for line in lines] == ["worker 0 of 2", "worker 1 of 2"]
    assert "first True batches 4 loss below True" in lines[0] and "first False batches 4" in lines[1]
    assert lines[0].split("sum")[1] == lines[1].split("sum")[1]


@pytest.mark.parametrize("text, line, words", [
    ("parameter_servre: true", 3, "did you mean 'parameter_server'"),
    ("timeout_s: -1", 3, "timeout_s must be a number from 0.1 to 86400, got -1"),
])  # fmt: skip
def test_a_mistake_in_the_yaml_file(tmp_path: Path, text: str, line: int, words: str) -> None:
    (tmp_path / "fleet.yaml").write_text(f"strategy:\n  seed: 9\n  {text}\n")
    began = time.monotonic()
    run = launched(tmp_path, YAML_SCRIPT, "-c", "fleet.yaml")
    assert run.status != 0 and time.monotonic() - began < 20
    assert "ConfigError" in run.err and f"fleet.yaml:{line}" in run.err and words in run.err, run.err


def test_the_yaml_file_fills_what_the_script_leaves_unset(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("strategy:\n  seed: 9\n  timeout_s: 33\n  buckets: {mb: 2}\n")
    run = launched(tmp_path, YAML_SCRIPT, "-c", "fleet.yaml")
    assert run.status == 0, run.err
    shown = next(line for line in run.log("trainer-1").splitlines() if line.startswith("in force"))
    assert "seed=3" in shown and "timeout_s=33" in shown and "'mb': 2" in shown
