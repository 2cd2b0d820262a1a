"""What trainers run in the tests of strategies: each call is one job, from init to shutdown, through the public face."""

from __future__ import annotations

from typing import Any

import paddle
from collective.definition import BATCH, EPOCHS, MOMENTUM, RATE, data, start
from paddle import nn

import fleet
import fleet.runtime
from fleet import training


def net() -> Any:
    model = nn.Sequential(nn.Linear(6, 8, bias_attr=False), nn.BatchNorm1D(8, epsilon=1e-5), nn.Tanh(), nn.Linear(8, 3))
    for name, value in start().items():
        dict(model.named_parameters())[name].set_value(value)
    return model


def optimizer(strategy: dict[str, Any], model: Any) -> Any:
    if "lamb" in strategy:
        return paddle.optimizer.Adam(RATE, parameters=model.parameters())
    return paddle.optimizer.Momentum(RATE, MOMENTUM, parameters=model.parameters())


def begin_anew() -> None:
    """Forget the job in hand, all but its runtime: a new one costs 0.4 s, most of it for Gloo."""
    runtime, this = fleet.runtime.current("a test"), training._job
    if this is not None and this.reducer is not None:
        this.reducer.close()
        runtime.closers.remove(this.reducer.close)
    training._job = None
    runtime.strategy = runtime._given = runtime._first = runtime.share = None
    runtime.strategy_in_force, runtime.steps, runtime.samples_trained, runtime.position = False, 0, 0, (0, 0, 0)
    runtime.strategies, runtime.after_step, runtime.before_push = [], [], []


def run(strategy: dict[str, Any]) -> dict[str, Any]:
    """Train two epochs in the job in hand; return the parameters."""
    model = fleet.distributed_model(net(), fleet.DistributedStrategy(**strategy))
    step = fleet.distributed_optimizer(optimizer(strategy, model))
    x, y = data()
    loader = fleet.distributed_loader(fleet.data.ArrayLoader({"x": x, "y": y}, BATCH, shuffle=False))
    for _ in range(EPOCHS):
        for batch in loader:
            nn.functional.cross_entropy(model(batch["x"]), batch["y"]).backward()
            step.step()
            step.clear_grad()
    return {**values(model), **averages(strategy, model)}


def values(model: Any) -> dict[str, Any]:
    return {name: p.numpy().copy() for name, p in model.named_parameters() if "._" not in name}


def averages(strategy: dict[str, Any], model: Any) -> dict[str, Any]:
    if "ema" not in strategy:
        return {}
    with fleet.ema_weights():
        return {f"ema/{name}": value for name, value in values(model).items()}


def train(strategies: list[dict[str, Any]]) -> list[Any]:
    """Train under each strategy, one job after another; return the parameters, or the text of the StrategyConflict."""
    found: list[Any] = []
    for strategy in strategies:
        begin_anew()
        try:
            found.append(run(strategy))
        except fleet.errors.StrategyConflict as conflict:
            found.append(str(conflict))
    begin_anew()
    return found
