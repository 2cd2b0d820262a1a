"""A table of which every row is touched in every step equals Paddle's dense kernels: what dense parameters on servers rely on.

The bound: Paddle's kernels may contract to FMA and join products in another order, the core never does; over 40 steps that stays
below 2e-6 of the largest weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from core_oracle import random_floats, table

paddle = pytest.importorskip("paddle")
optimizer_of = paddle.optimizer

ROWS, DIM, STEPS, BOUND = 3, 1024, 40, 2e-6
CASES: dict[str, tuple[str, dict[str, float], Callable[..., Any]]] = {
    "sgd": ("sgd", {}, optimizer_of.SGD),
    "momentum": ("momentum", {"momentum": 0.9}, lambda **a: optimizer_of.Momentum(momentum=0.9, **a)),
    "nesterov": ("momentum", {"momentum": 0.8, "nesterov": 1},
                 lambda **a: optimizer_of.Momentum(momentum=0.8, use_nesterov=True, **a)),
    "momentum, L2": ("momentum", {"momentum": 0.9, "l2_decay": 0.02},
                     lambda **a: optimizer_of.Momentum(momentum=0.9, weight_decay=0.02, **a)),
    "sgd, L2, clipped": ("sgd", {"l2_decay": 0.02, "clip_min": -0.5, "clip_max": 0.5},
                         lambda **a: optimizer_of.SGD(weight_decay=0.02, grad_clip=paddle.nn.ClipGradByValue(0.5), **a)),
    "adagrad": ("adagrad", {"epsilon": 1e-6, "initial_accumulator_value": 0.1},
                lambda **a: optimizer_of.Adagrad(epsilon=1e-6, initial_accumulator_value=0.1, **a)),
    "rmsprop": ("rmsprop", {"rho": 0.9, "momentum": 0.5, "epsilon": 1e-4},
                lambda **a: optimizer_of.RMSProp(rho=0.9, momentum=0.5, epsilon=1e-4, **a)),
    "centered rmsprop": ("rmsprop_centered", {"rho": 0.9, "momentum": 0.5, "epsilon": 1e-4},
                         lambda **a: optimizer_of.RMSProp(rho=0.9, momentum=0.5, epsilon=1e-4, centered=True, **a)),
    "adam": ("adam", {"beta1": 0.8, "beta2": 0.99, "dense": 1}, lambda **a: optimizer_of.Adam(beta1=0.8, beta2=0.99, **a)),
    "adam, L2": ("adam", {"dense": 1, "l2_decay": 0.1}, lambda **a: optimizer_of.Adam(weight_decay=0.1, **a)),
    "adamw": ("adamw", {"weight_decay": 0.3}, lambda **a: optimizer_of.AdamW(weight_decay=0.3, **a)),
}  # fmt: skip


def close(ours: Any, theirs: Any) -> None:
    assert np.abs(ours - theirs).max() <= BOUND * np.abs(theirs).max()


@pytest.mark.parametrize("case", CASES)
def test_forty_steps(case: str) -> None:
    name, hyper, make = CASES[case]
    paddle.set_device("cpu")
    start = random_floats(ROWS, DIM)
    weight = paddle.create_parameter([ROWS, DIM], "float32")
    weight.set_value(start)
    schedule = paddle.optimizer.lr.ExponentialDecay(0.02, 0.98)
    optimizer = make(learning_rate=schedule, parameters=[weight])
    rows, ids = table(DIM, name, hyper=hyper), np.arange(ROWS, dtype=np.uint64)
    rows.assign(ids, start)
    for step in range(1, STEPS + 1):
        grads = random_floats(ROWS, DIM, seed=step)
        (weight * paddle.to_tensor(grads)).sum().backward()
        assert rows.push(ids, grads, optimizer.get_lr(), step) == 0
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
    assert np.abs(weight.numpy() - start).max() > 0.1
    close(rows.read(ids)[1], weight.numpy())


def test_decayed_adagrad_and_ftrl_equal_the_operators_that_no_class_uses() -> None:
    """Paddle's ftrl has no beta, adds 2 l2 where the paper adds l2, and 1e-10 to both strengths."""
    start, ids = random_floats(ROWS, DIM), np.arange(ROWS, dtype=np.uint64)
    rate = paddle.to_tensor([0.05])
    decayed = table(DIM, "decayed_adagrad", hyper={"decay": 0.9, "epsilon": 1e-4})
    ftrl = table(DIM, "ftrl", hyper={"l1": 8.0, "l2": 0.2, "beta": 1e-30})
    weight, moment = paddle.to_tensor(start), paddle.zeros([ROWS, DIM])
    other, squared, linear = paddle.to_tensor(start), paddle.full([ROWS, DIM], 0.0), paddle.zeros([ROWS, DIM])
    for rows in (decayed, ftrl):
        rows.assign(ids, start)
    for step in range(1, STEPS + 1):
        grads = random_floats(ROWS, DIM, seed=step)
        given = paddle.to_tensor(grads)
        weight, moment = paddle._C_ops.decayed_adagrad(weight, given, moment, rate, 0.9, 1e-4)
        other, squared, linear = paddle._C_ops.ftrl(other, squared, linear, given, rate, 8.0, 0.1, -0.5)
        decayed.push(ids, grads, 0.05, step)
        ftrl.push(ids, grads, 0.05, step)
    close(decayed.read(ids)[1], weight.numpy())
    close(ftrl.read(ids)[1], other.numpy())
    assert 0.05 < (other.numpy() == 0).mean() < 0.95  # l1 at work
