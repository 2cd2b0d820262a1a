"""An embedding whose rows are in a table moves as the same nn.Embedding under Paddle's own optimizer, on the rows that it touches.

Every row is touched in every step here, so that Paddle's dense kernels are the reference; what happens to untouched rows is
said by ``test_lazy``. The bound is that of ``tests/core/test_dense_blocks_equal_paddle.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

import fleet
from fleet.errors import ConfigError
from fleet.parameter_server import Embedding, row_optimizer
from fleet.parameter_server.row_optimizer import WeightAttributes

opt, L2 = paddle.optimizer, paddle.regularizer.L2Decay
STEPS, ROWS, DIM = 12, 6, 3
Make = Callable[[Any, Any], Any]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("FLEET_SERVERS", "FLEET_WORLD_SIZE", "FLEET_RANK", "PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID"):
        monkeypatch.delenv(name, raising=False)
    fleet.init()
    yield
    fleet.shutdown()


class Net(nn.Layer):
    def __init__(self, attr: Any) -> None:
        super().__init__()
        self.rows, self.out = nn.Embedding(ROWS, DIM, weight_attr=attr), nn.Linear(DIM, 1)

    def forward(self, x: Any) -> Any:
        return self.out(self.rows(x)).tanh()


def twin_of(net: Net, attr: Any) -> Net:
    twin = Net(attr)
    twin.set_state_dict(net.state_dict())
    return twin


def train(net: Net, optimizer: Any, schedule: Any, batches: list[list[int]]) -> None:
    for ids in batches:
        (net(paddle.to_tensor(ids)) * 3).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()


def run(make: Make, attr: Any = None, batches: list[list[int]] | None = None, **block: Any) -> tuple[Any, Any, Any]:
    """Return (rows of the table, rows of Paddle alone, rows before) after the same steps."""
    batches = batches or [list(range(ROWS))] * STEPS
    net = Net(attr and attr())
    twin, start = twin_of(net, attr and attr()), net.rows.weight.numpy()
    schedules = [opt.lr.ExponentialDecay(0.05, 0.9) for _ in range(2)]
    fleet.distributed_model(net)
    strategy = fleet.DistributedStrategy(parameter_server={"prefetch": 0, **block})
    wrapped = fleet.distributed_optimizer(make(schedules[0], net.parameters()), strategy=strategy)
    train(net, wrapped, schedules[0], batches)
    train(twin, make(schedules[1], twin.parameters()), schedules[1], batches)
    return net.rows.download(), twin.rows.weight.numpy(), start


def close(ours: Any, theirs: Any, start: Any) -> None:
    assert np.abs(theirs - start).max() > 0.01
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=4e-6 * np.abs(theirs).max())


CASES: dict[str, Make] = {
    "sgd": lambda lr, p: opt.SGD(lr, parameters=p),
    "momentum": lambda lr, p: opt.Momentum(lr, parameters=p),
    "nesterov, L2": lambda lr, p: opt.Momentum(lr, use_nesterov=True, weight_decay=0.1, parameters=p),
    "adagrad, L2": lambda lr, p: opt.Adagrad(lr, parameters=p, weight_decay=L2(0.1)),
    "rmsprop": lambda lr, p: opt.RMSProp(lr, momentum=0.3, parameters=p),
    "rmsprop, centered": lambda lr, p: opt.RMSProp(lr, rho=0.8, centered=True, parameters=p),
    "adamw": lambda lr, p: opt.AdamW(lr, parameters=p, weight_decay=0.2),
    "sgd, clipped": lambda lr, p: opt.SGD(lr, parameters=p, grad_clip=nn.ClipGradByValue(0.05)),
    "sgd, clipped, L2": lambda lr, p: opt.SGD(lr, parameters=p, grad_clip=nn.ClipGradByValue(0.03, -0.01), weight_decay=0.1),
}


@pytest.mark.parametrize("case", CASES)
def test_as_alone(case: str) -> None:
    close(*run(CASES[case]))


def test_what_the_weights_attributes_say() -> None:
    attr = lambda: paddle.ParamAttr(learning_rate=0.3, regularizer=L2(0.5), need_clip=False)  # noqa: E731
    make = lambda lr, p: opt.SGD(lr, parameters=p, weight_decay=0.01, grad_clip=nn.ClipGradByValue(1e-4))  # noqa: E731
    close(*run(make, attr))


def test_adamw_asks_which_weights_decay() -> None:
    def make(lr: Any, p: Any) -> Any:
        return opt.AdamW(lr, parameters=p, weight_decay=0.5, apply_decay_param_fun=lambda name: "embedding" not in name)

    close(*run(make))


def test_lazy() -> None:
    """Rows without a gradient do not move at all, also where Paddle's dense kernel lets them decay or follow their momentum."""
    batches = [[0, 1, 2, 3]] * 3 + [[0, 1]] * 5
    make = lambda lr, p: opt.Momentum(lr, parameters=p, weight_decay=0.1)  # noqa: E731
    ours, theirs, start = run(make, batches=batches)
    close(ours[:2], theirs[:2], start[:2])
    np.testing.assert_array_equal(ours[4:], start[4:])  # never touched
    assert np.abs(theirs[2:] - ours[2:]).min() > 1e-4
    assert row_optimizer.is_lazy("momentum", ()) and row_optimizer.is_lazy("sgd", (("l2_decay", 0.1),))
    assert not row_optimizer.is_lazy("adagrad", ())


def test_a_row_optimizer_with_constants_of_its_own() -> None:
    """The strategy's constants win over the script's, and name an optimizer that the script does not use."""
    sgd = opt.SGD(0.1, parameters=[])
    assert row_optimizer.of(sgd, {"name": "ftrl", "l1": 0.5}) == ("ftrl", (("l1", 0.5),))
    adam = opt.Adam(0.1, beta1=0.8, epsilon=1e-6, parameters=[])
    name, constants = row_optimizer.of(adam, {"name": "adam", "beta1": 0.7})
    assert name == "adam" and dict(constants) == {"beta1": 0.7, "beta2": 0.999, "epsilon": 1e-6}
    assert dict(row_optimizer.of(adam, None, dense=True)[1])["dense"] == 1.0
    assert "dense" not in dict(row_optimizer.of(opt.AdamW(0.1, parameters=[]), None, dense=True)[1])
    assert row_optimizer.of(adam, "rowwise_adagrad") == ("rowwise_adagrad", ())


def test_adamw_with_another_row_optimizer_is_refused_unless_nothing_decays() -> None:
    adamw = opt.AdamW(0.1, parameters=[])
    with pytest.raises(ConfigError, match="AdamW's decoupled weight decay has no place in the row optimizer rowwise_adagrad"):
        row_optimizer.of(adamw, "rowwise_adagrad")
    exempt = opt.AdamW(0.1, parameters=[], apply_decay_param_fun=lambda name: name != "ads")
    assert row_optimizer.of(exempt, "rowwise_adagrad", WeightAttributes("ads")) == ("rowwise_adagrad", ())
    assert row_optimizer.of(opt.AdamW(0.1, parameters=[], weight_decay=0.0), "adagrad")[0] == "adagrad"


def test_a_learning_rate_of_the_table() -> None:
    model = nn.Sequential(Embedding(2, learning_rate=0.25, initializer=nn.initializer.Constant(1.0)), nn.Linear(2, 1))
    fleet.distributed_model(model)
    inner = opt.SGD(0.5, parameters=model.parameters())
    optimizer = fleet.distributed_optimizer(inner, strategy=fleet.DistributedStrategy(parameter_server=True))
    model[0](paddle.to_tensor([3])).sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(model[0](paddle.to_tensor([3])).numpy(), [[0.875, 0.875]])
    for wrong in (-1.0, float("nan"), True, "1"):
        with pytest.raises(ConfigError, match="learning_rate must be a number >= 0"):
            Embedding(2, learning_rate=wrong)  # type: ignore[arg-type]
