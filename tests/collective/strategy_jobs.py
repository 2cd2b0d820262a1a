"""What trainers run in the tests of strategies: each call is one job, from init to shutdown, through the public face."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
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
    if {"lamb", "onebit"} & set(strategy):
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


def sent(strategies: list[dict[str, Any]]) -> list[float]:
    """Return the bytes that this trainer sends under each, for a float of gradient and batch: of batches 5 to 12.

    The model is a layer of 512 x 512 and its batch norm. Buckets without a codec are 4 bytes a float.
    """
    return [bytes_a_float(strategy) for strategy in strategies]


def bytes_a_float(strategy: dict[str, Any]) -> float:
    begin_anew()
    model = nn.Sequential(nn.Linear(512, 512, bias_attr=False), nn.BatchNorm1D(512))
    fleet.distributed_model(model, fleet.DistributedStrategy(batch="per_trainer", **strategy))
    step = fleet.distributed_optimizer(optimizer(strategy, model))
    in_force = training._job.in_force
    plain, asked = [], in_force.meets

    def meets() -> str:
        plain.append(asked())
        return plain[-1]

    in_force.meets = meets
    for k in range(12):
        if k == 4:
            plain.clear()
            before = in_force.trainer.wire.bytes_sent
        model(paddle.ones([2, 512]) * k).square().mean().backward()
        step.step()
        step.clear_grad()
    in_buckets = 0 if in_force.codec is not None else 4 * plain.count("now")
    floats = sum(int(p.size) for p in model.parameters() if not p.stop_gradient)
    counted = (in_force.trainer.wire.bytes_sent - before) / floats
    begin_anew()
    return (counted + in_buckets) / 8


class Faulty(fleet.Strategy):
    """Does one thing wrong."""

    name = "faulty"
    fault = ""

    def wrap_model(self, model: Any, trainer: Any) -> None:
        if self.fault == "wrap_model":
            model[0] = nn.Linear(6, 8, bias_attr=False)

    def wrap_optimizer(self, optimizer: Any, trainer: Any) -> Any:
        return None if self.fault == "wrap_optimizer" else optimizer

    def meets(self, trainer: Any) -> Any:
        return "sometimes" if self.fault == "meets" else "now"

    def applies(self, trainer: Any) -> Any:
        return 1 if self.fault == "applies" else True

    def on_gradients(self, trainer: Any) -> None:
        if self.fault == "on_gradients":
            raise KeyError("mine")
        if self.fault == "shape":
            trainer.parameters[0][1].clear_gradient(False)
            trainer.parameters[0][1].grad = paddle.zeros([2])


class FaultyCodec(fleet.Codec):
    """Encodes or decodes wrongly."""

    name = "faulty_codec"
    fault = ""

    def encode(self, part: Any) -> Any:
        if self.fault == "encode":
            raise ZeroDivisionError("mine")
        return part.values if self.fault == "bytes" else part.values.tobytes()

    def decode(self, payload: bytes, part: Any) -> Any:
        found = np.zeros(1) if self.fault == "decode" else np.frombuffer(payload, np.float32)
        return found[:1] if self.fault == "size" else found


class Halves(fleet.Codec):
    """A codec with error feedback: it sends every value at half of what it is."""

    name = "halves"
    error_feedback = True

    def encode(self, part: Any) -> bytes:
        return bytes((part.values / 2).tobytes())

    def decode(self, payload: bytes, part: Any) -> Any:
        return np.frombuffer(payload, np.float32)


def faulty(kind: str, fault: str) -> str:
    """Train under a strategy with a fault; return the error's text."""
    begin_anew()
    made = {"strategy": Faulty, "codec": FaultyCodec}[kind]()
    type(made).fault = fault
    try:
        run({"custom": [made]})
    except fleet.errors.ConfigError as error:
        return str(error)
    finally:
        begin_anew()
    return "no error"


def halved() -> Any:
    """Train with a codec of one's own; return the parameters, and what it holds back."""
    begin_anew()
    codec = Halves()
    found = run({"custom": [codec]})
    begin_anew()
    return found, codec.lost


def resumed(strategy: dict[str, Any], stop_at: int) -> Any:
    """Train; then again, broken off after ``stop_at`` batches and taken up by a new job from what a checkpoint keeps."""
    begin_anew()
    whole = run(strategy)
    begin_anew()
    kept = part_of(strategy, None, stop_at)
    begin_anew()
    rest = part_of(strategy, kept, None)
    begin_anew()
    return whole, rest


def part_of(strategy: dict[str, Any], kept: Any, stop_at: int | None) -> Any:
    runtime = fleet.runtime.current("a test")
    model = fleet.distributed_model(net(), fleet.DistributedStrategy(**strategy))
    step = fleet.distributed_optimizer(optimizer(strategy, model))
    x, y = data()
    loader = fleet.distributed_loader(fleet.data.ArrayLoader({"x": x, "y": y}, BATCH, shuffle=False))
    first = 0
    if kept is not None:
        weights, learned, position, steps, first, states = kept
        model.set_state_dict(weights)
        now = {old: p.name for old, p in zip(learned[0], model.parameters(), strict=True)}
        step.set_state_dict({renamed(key, now): value for key, value in learned[1].items()})
        loader.load(position)
        runtime.steps = steps
        for held, of_all in zip(runtime.strategies, states, strict=True):
            held.load(of_all)
    batches = first
    for _ in range(loader.epoch, EPOCHS):
        for batch in loader:
            nn.functional.cross_entropy(model(batch["x"]), batch["y"]).backward()
            step.step()
            step.clear_grad()
            batches += 1
            if batches == stop_at:
                return checkpoint(model, step, loader, batches)
    return {**values(model), **averages(strategy, model)}


def renamed(key: str, now: dict[str, str]) -> str:
    old = next((name for name in sorted(now, key=len, reverse=True) if key.startswith(f"{name}_")), "")
    return now[old] + key[len(old) :] if old else key


def checkpoint(model: Any, step: Any, loader: Any, batches: int) -> Any:
    """What a checkpoint holds: trainer 0's model and optimizer, every trainer's strategies."""
    runtime = fleet.runtime.current("a test")
    mine = [dict(held.state()) for held in runtime.strategies]
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    # A new job's layers have other names in Paddle.
    names = [p.name for p in model.parameters()]
    learned = {k: v.numpy() if hasattr(v, "numpy") else v for k, v in step.state_dict().items()}
    gathered = [pickle.loads(p) for p in runtime.meet("a test", pickle.dumps((mine, weights, (names, learned), loader.state())))]
    states = [[everyone[0][k] for everyone in gathered] for k in range(len(mine))]
    states = [s if held.per_trainer else s[:1] for s, held in zip(states, runtime.strategies, strict=True)]
    return gathered[0][1], gathered[0][2], gathered[0][3], runtime.steps, batches, states


def adam_state(sharded: bool) -> tuple[int, list[Any]]:
    """Take two Adam steps on eight equal layers, clipped by the optimizer; return the bytes of moments here, and the values."""
    begin_anew()
    paddle.seed(3)
    model = nn.Sequential(*(nn.Linear(16, 16, bias_attr=False) for _ in range(8)))
    inner = paddle.optimizer.Adam(0.01, parameters=model.parameters(), grad_clip=nn.ClipGradByGlobalNorm(0.01))
    strategy = fleet.DistributedStrategy(batch="per_trainer", sharding=sharded)
    step = fleet.distributed_optimizer(inner, strategy)
    for k in range(2):
        model(paddle.full([2, 16], 0.1 * k + fleet.rank())).square().mean().backward()
        step.step()
        step.clear_grad()
        assert all(p.grad is None or float(p.grad.abs().max()) == 0 for p in model.parameters())
    held = sum(v.numpy().nbytes for k, v in inner.state_dict().items() if "moment" in k)
    begin_anew()
    return held, [p.numpy() for p in model.parameters()]


def with_dropout(on: bool) -> Any:
    """Train a net with dropout, its activations kept or made again; return the parameters and the forward runs of one block."""
    begin_anew()
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5)), nn.Linear(8, 3))
    for k, p in enumerate(model.parameters()):
        p.set_value(np.random.default_rng(k).normal(size=p.shape).astype("float32"))
    runs = []
    model[0][0].register_forward_post_hook(lambda *_: runs.append(1))
    inner = paddle.optimizer.SGD(0.1, parameters=model.parameters())
    fleet.distributed_model(model, fleet.DistributedStrategy(batch="per_trainer", recompute=on))
    step = fleet.distributed_optimizer(inner)
    paddle.seed(5)
    for k in range(3):
        model(paddle.full([4, 6], 0.1 * k + fleet.rank())).square().mean().backward()
        step.step()
        step.clear_grad()
    begin_anew()
    return len(runs), [p.numpy() for p in model.parameters()]


def parted() -> list[str]:
    """One trainer changes a parameter by itself."""
    begin_anew()
    words = "no error"
    model = fleet.distributed_model(net(), fleet.DistributedStrategy(batch="per_trainer", verify=True))
    step = fleet.distributed_optimizer(optimizer({}, model))
    try:
        for _ in range(2):
            model(paddle.full([4, 6], 0.5)).square().mean().backward()
            step.step()
            if fleet.rank() == 1:
                model[3].weight.set_value(model[3].weight * 2)
    except fleet.errors.FleetError as error:
        words = str(error)
    begin_anew()
    return [words]


def refused_at_join(strategy: dict[str, Any], kind: str) -> str:
    begin_anew()
    model = net()
    how = {"weight_decay": 0.1} if kind == "decay" else {"grad_clip": nn.ClipGradByNorm(1.0)} if kind == "clips" else {}
    make = paddle.optimizer.Adam if kind == "adam" else paddle.optimizer.Momentum
    try:
        fleet.distributed_model(model, fleet.DistributedStrategy(batch="per_trainer", **strategy))
        fleet.distributed_optimizer(make(0.1, parameters=model.parameters(), **how))
    except fleet.errors.ConfigError as error:
        return str(error)
    finally:
        begin_anew()
    return "not refused"
