"""``dense="server"``: one trainer ends where plain Paddle ends, in every mode; with prefetch=1 rows are exactly one step behind.

What the original did wrong is checked here by being right: SGD stays SGD, weights grow beyond 10, what the servers hold comes back.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from parameter_server import ps_jobs
from parameter_server.one_job import largest_difference, train, train_one_step_behind

import fleet
from fleet import training
from fleet.errors import ConfigError

EPOCHS = 4
# The servers do Paddle's operations in Paddle's order; what differs is the order of adding repeated ids within a batch.
TOLERANCE = {"adam": 1e-4}
MODES: dict[str, dict[str, Any]] = {
    "sync": {"consistency": "sync"},
    "half_async": {"consistency": "half_async"},
    "async": {"consistency": "async"},
    "bounded": {"consistency": "bounded", "staleness": 1},
    "bounded 0": {"consistency": "bounded", "staleness": 0},
    "geo": {"consistency": "geo", "k_steps": 7},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam"])
def test_one_trainer_without_prefetch(mode: str, name: str) -> None:
    found = train(name, EPOCHS, **MODES[mode], dense="server", prefetch=0)
    assert largest_difference(found, ps_jobs.train_alone(name, EPOCHS)) < TOLERANCE.get(name, 1e-5)


@pytest.mark.parametrize("mode", ["half_async", "async", "bounded", "geo"])
@pytest.mark.parametrize("name", ["sgd", "adagrad"])
def test_prefetch_is_exactly_one_step_behind(mode: str, name: str) -> None:
    merges = {"merge_steps": 1} if mode == "half_async" else {}
    found = train(name, EPOCHS, **MODES[mode], dense="server", **merges)
    assert largest_difference(found, train_one_step_behind(name, EPOCHS)) < 1e-5
    assert largest_difference(found, ps_jobs.train_alone(name, EPOCHS)) > 1e-3  # the data would show it


@pytest.mark.parametrize("merge_steps", [2, 3])
def test_half_async_merges_rows_and_no_dense_parameters(merge_steps: int) -> None:
    found = train("sgd", EPOCHS, consistency="half_async", merge_steps=merge_steps)
    assert largest_difference(found, train_one_step_behind("sgd", EPOCHS, merge_steps)) < 1e-5
    assert largest_difference(found, train_one_step_behind("sgd", EPOCHS)) > 1e-3


class Tower(nn.Layer):
    """No table: layers of several blocks, a rate of its own, a layer used in every second step and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        slow = paddle.ParamAttr(learning_rate=0.25)
        self.first, self.second = nn.Linear(50, 70), nn.Linear(70, 70, weight_attr=slow)
        self.sometimes, self.never, self.last = nn.Linear(70, 70), nn.Linear(3, 3), nn.Linear(70, 1)
        rng = np.random.default_rng(1)
        for parameter in self.parameters():
            parameter.set_value(rng.uniform(-0.2, 0.2, parameter.shape).astype(np.float32))

    def forward(self, x: Any, whole: bool = False) -> Any:
        hidden = paddle.tanh(self.second(paddle.tanh(self.first(x))))
        return self.last(hidden + self.sometimes(hidden) if whole else hidden)


def learn(model: Any, optimizer: Any, steps: int = 16, always: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    for number in range(steps):
        x, y = (paddle.to_tensor(rng.standard_normal((8, n)).astype(np.float32)) for n in (50, 1))
        for half in (slice(0, 4), slice(4, 8)):  # two micro-steps
            (0.05 * nn.functional.mse_loss(model(x[half], always or number % 2 == 0), y[half])).backward()
        optimizer.step()
        optimizer.clear_grad()
    return {n: p.numpy() for n, p in model.named_parameters()}


Join = Callable[..., Any]


@pytest.fixture
def join() -> Iterator[Join]:
    """Return a function that makes a model and an optimizer a job, alone, its dense parameters on the servers."""
    kept = {n: os.environ.pop(n) for n in list(os.environ) if n.startswith(("FLEET_", "PADDLE_"))}
    fleet.init()

    def start(model: nn.Layer, optimizer: Any, **block: Any) -> Any:
        fleet.distributed_model(model)
        strategy = fleet.DistributedStrategy(parameter_server={"consistency": "async", "dense": "server", "prefetch": 0, **block})
        return fleet.distributed_optimizer(optimizer, strategy=strategy)

    yield start
    fleet.shutdown()
    os.environ.update(kept)


@pytest.mark.parametrize("name", ["sgd", "sgd_l2", "momentum", "nesterov", "adagrad", "adam", "adamw"])
def test_every_optimizer_is_the_scripts_own(join: Join, name: str) -> None:
    """What differs is rounding: Paddle's dense kernels of the adaptive ones take root and division in another order."""
    alone, ours = Tower(), Tower()
    always = name.startswith("adam")  # Paddle counts the steps of each parameter
    expected = learn(alone, ps_jobs.make_optimizer(name, alone.parameters()), always=always)
    found = learn(ours, join(ours, ps_jobs.make_optimizer(name, ours.parameters())), always=always)
    assert largest_difference(found, expected) < (1e-5 if name.startswith("ada") else 1e-6)
    assert (found["never.weight"] == Tower().never.weight.numpy()).all()


def test_weights_grow_beyond_ten_and_the_rows_come_back(join: Join) -> None:
    layer = nn.Linear(2, 1, weight_attr=nn.initializer.Constant(9.0))
    optimizer = join(layer, paddle.optimizer.SGD(1.0, parameters=layer.parameters()))
    for _ in range(50):
        (-layer(paddle.ones([1, 2])).sum()).backward()
        optimizer.step()
        optimizer.clear_grad()
    assert (layer.weight.numpy() == 59).all() and layer.bias.numpy() == 50


def test_pulled_back_every_so_many_steps(join: Join) -> None:
    layer = nn.Linear(1, 1, weight_attr=nn.initializer.Constant(0.0))
    optimizer = join(layer, paddle.optimizer.SGD(1.0, parameters=layer.parameters()), pull_steps=3)
    seen = []
    for _ in range(7):
        (-layer(paddle.ones([1, 1])).sum()).backward()
        optimizer.step()
        optimizer.clear_grad()
        seen.append(layer.weight.item())
    assert seen == [0, 0, 3, 3, 3, 6, 6]
    training.job().runtime.tables.pull_dense()
    assert layer.weight.item() == 7


def test_gradients_are_clipped_by_value_as_in_paddle(join: Join) -> None:
    def clipped(model: Any) -> Any:
        return paddle.optimizer.SGD(0.5, parameters=model.parameters(), grad_clip=nn.ClipGradByValue(0.003), weight_decay=0.01)

    alone, ours = Tower(), Tower()
    expected = learn(alone, clipped(alone))
    assert largest_difference(learn(ours, join(ours, clipped(ours))), expected) < 1e-6
    free = Tower()
    assert largest_difference(learn(free, ps_jobs.make_optimizer("sgd", free.parameters())), expected) > 1e-2


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "RMSProp": (lambda p: paddle.optimizer.RMSProp(0.1, parameters=p), "cannot move dense parameters by RMSProp"),
    "norm": (lambda p: paddle.optimizer.SGD(0.1, parameters=p, grad_clip=nn.ClipGradByNorm(1.0)), "ClipGradByNorm needs the norm"),
    "global norm": (lambda p: paddle.optimizer.SGD(0.1, parameters=p, grad_clip=nn.ClipGradByGlobalNorm(1.0)), "GlobalNorm"),
    "L1": (lambda p: paddle.optimizer.SGD(0.1, parameters=p, weight_decay=paddle.regularizer.L1Decay(0.1)), "L1Decay"),
    "rescale": (lambda p: paddle.optimizer.Momentum(0.1, parameters=p, rescale_grad=0.5), "rescale_grad"),
    "amsgrad": (lambda p: paddle.optimizer.Adam(0.1, parameters=p, amsgrad=True), "amsgrad"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_servers_cannot_do_is_refused(join: Join, case: str) -> None:
    make, words = REFUSED[case]
    model = Tower()
    with pytest.raises(ConfigError, match=words):
        join(model, make(model.parameters()))


def test_float64_is_refused(join: Join) -> None:
    model = nn.Linear(2, 1)
    model.to(dtype="float64")
    with pytest.raises(ConfigError, match="'weight' is float64"):
        join(model, paddle.optimizer.SGD(0.1, parameters=model.parameters()))


def test_a_parameter_that_the_script_changes_is_named(join: Join) -> None:
    model = Tower()
    optimizer = join(model, paddle.optimizer.SGD(0.1, parameters=model.parameters()))
    learn(model, optimizer, steps=2)
    model.second.bias.set_value(np.zeros(70, np.float32))
    with pytest.raises(ConfigError, match="the script has changed 'second.bias', which lives on the servers"):
        learn(model, optimizer, steps=1)


def test_saved_and_loaded_weights_go_to_the_servers(join: Join, tmp_path: Path) -> None:
    model = Tower()
    optimizer = join(model, paddle.optimizer.SGD(0.1, parameters=model.parameters()), prefetch=1)
    learn(model, optimizer, steps=3)
    fleet.save(model, str(tmp_path / "w.pdparams"))
    at_three = {n: p.numpy() for n, p in model.named_parameters()}
    alone = Tower()
    alone.set_state_dict(paddle.load(str(tmp_path / "w.pdparams")))
    learn(model, optimizer, steps=3)
    fleet.load(model, str(tmp_path / "w.pdparams"))
    training.job().runtime.tables.pull_dense()
    for name, parameter in model.named_parameters():
        assert (parameter.numpy() == at_three[name]).all() and (alone.state_dict()[name].numpy() == at_three[name]).all()
    learn(model, optimizer, steps=1)  # and goes on from there


@pytest.mark.parametrize(
    ("name", "options"),
    [("adagrad", {}), ("adam", {}), ("adagrad", {"consistency": "half_async"}), ("adagrad", {"consistency": "geo", "k_steps": 3}),
     ("adam", {"consistency": "geo"})],
)  # fmt: skip
def test_a_resumed_job_ends_where_an_uninterrupted_one_does(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    """Row state of the dense blocks comes back too; with prefetch and merged pushes the two end at the same bits."""
    block = {"consistency": "async", "dense": "server", **options}
    whole = train(name, 4, str(tmp_path / "whole"), **block)
    train(name, 2, str(tmp_path / "parts"), **block)
    resumed = train(name, 4, str(tmp_path / "parts"), **block)
    assert {n: v.tobytes() for n, v in resumed.items()} == {n: v.tobytes() for n, v in whole.items()}
