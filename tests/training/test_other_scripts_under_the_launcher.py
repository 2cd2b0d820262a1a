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

WITH_A_SCALER = """
import fleet  # was: import paddle.distributed.fleet as fleet
import numpy as np
import paddle

fleet.init(fleet.PaddleCloudRoleMaker(is_collective=True))
paddle.seed(1)


class Net(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.first, self.last = paddle.nn.Linear(3, 8), paddle.nn.Linear(8, 1)

    def forward(self, x):
        return self.last(fleet.utils.recompute(self.first, x))


model = Net()
inner = paddle.optimizer.Momentum(0.05, parameters=model.parameters(), grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0))
optimizer = fleet.distributed_optimizer(inner, strategy=fleet.DistributedStrategy())
model = fleet.distributed_model(model)
scaler = fleet.distributed_scaler(paddle.amp.GradScaler(init_loss_scaling=1024))
rng = np.random.default_rng(fleet.worker_index())
for _ in range(40):
    x = rng.standard_normal((8, 3)).astype("float32")
    loss = paddle.nn.functional.mse_loss(model(paddle.to_tensor(x)), paddle.to_tensor(x.sum(1, keepdims=True)))
    scaled = scaler.scale(loss)
    scaled.backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.clear_grad()
fleet.util.barrier()
mine = fleet.util.get_file_shard(["a", "b", "c"])
total = fleet.util.all_reduce([1.0, float(fleet.worker_index())])
fleet.util.print_on_rank("printed by 1", 1)
print("worker", mine, total.tolist(), fleet.util.all_gather(fleet.worker_index()), float(loss) < 0.5,
      "sum", float(model.first.weight.sum()))
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


def test_scaler_recompute_and_util_of_paddles_documentation(tmp_path: Path) -> None:
    run = launched(tmp_path, WITH_A_SCALER)
    assert run.status == 0, run.err
    lines = [next(line for line in run.log(f"trainer-{r}").splitlines() if line.startswith("worker")) for r in (0, 1)]
    assert "['a', 'b'] [2.0, 1.0] [0, 1] True" in lines[0] and "['c'] [2.0, 1.0] [0, 1]" in lines[1], lines
    assert lines[0].split("sum")[1] == lines[1].split("sum")[1]
    assert ["printed by 1" in run.log(f"trainer-{r}") for r in (0, 1)] == [False, True]


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
