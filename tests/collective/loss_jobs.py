"""What trainers run in the tests of fleet.mean_loss: sentences of unequal length, their losses divided by tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from collective.strategy_jobs import begin_anew
from paddle import nn

import fleet

SENTENCES, BATCH, LENGTH = 20, 6, 5  # the last batch has 2: of four trainers two have none


def data() -> tuple[Any, Any]:
    random = np.random.default_rng(7)
    words = random.normal(size=(SENTENCES, LENGTH, 3)).astype(np.float32)
    lengths = random.integers(1, LENGTH + 1, SENTENCES)
    lengths[1] = 0  # a sentence without a token: on four trainers, a part of count 0
    return words, (np.arange(LENGTH) < lengths[:, None]).astype(np.float32)


def net() -> Any:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    for k, parameter in enumerate(model.parameters()):
        parameter.set_value(np.random.default_rng(k).normal(size=parameter.shape).astype(np.float32))
    return model


def train(strategy: dict[str, Any]) -> list[Any]:
    """Train an epoch; return the parameters."""
    begin_anew()
    model = fleet.distributed_model(net(), fleet.DistributedStrategy(**strategy))
    step = fleet.distributed_optimizer(paddle.optimizer.SGD(0.5, parameters=model.parameters()))
    words, mask = data()
    for x, there in fleet.distributed_loader(fleet.data.ArrayLoader((words, mask), BATCH, shuffle=False)):
        losses = model(x).squeeze(-1).square() * there
        fleet.mean_loss(losses.sum(), float(there.sum())).backward()
        step.step()
        step.clear_grad()
    begin_anew()
    return [p.numpy().copy() for p in model.parameters()]


def refused(count: float) -> str:
    """Give a count that is wrong on trainer 1 only; return the error."""
    begin_anew()
    try:
        fleet.mean_loss(paddle.ones([1]), count if fleet.rank() == 1 else 1.0)
    except fleet.errors.ConfigError as error:
        return str(error)
    return "not refused"


def refused_total() -> str:
    begin_anew()
    try:
        fleet.mean_loss(paddle.ones([2]), 1)
    except fleet.errors.ConfigError as error:
        return str(error)
    return "not refused"


def gradients(strategy: dict[str, Any]) -> dict[str, Any]:
    """Take a step together, then compute the gradients of a step of one's own; and those that the script alone would have."""
    begin_anew()
    model = fleet.distributed_model(net(), fleet.DistributedStrategy(batch="per_trainer", **strategy))
    step = fleet.distributed_optimizer(paddle.optimizer.SGD(0.5, parameters=model.parameters()))
    x = paddle.ones([2, 3]) * (1 + fleet.rank())
    count = 3.0 + fleet.rank()
    fleet.mean_loss(model(x).square().sum(), count).backward()
    step.step()
    step.clear_grad()
    fleet.mean_loss(model(x).square().sum(), count).backward()
    got = [p.grad.numpy().copy() for p in model.parameters()]
    own = paddle.grad(model(x).square().sum() / count, list(model.parameters()))
    own = [g.numpy() for g in own]
    step.clear_grad()
    begin_anew()
    return {"got": got, "own": own}
