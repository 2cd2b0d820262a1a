"""A table equals Paddle's own sparse optimizers on an ``nn.Embedding(sparse=True)``: SGD, Adagrad, Adam(lazy_mode=True).

The bound: Paddle's kernels may contract to FMA, the core never does; over 30 steps that stays below 1e-6 of the largest
weight. Step t of Paddle's sparse Adam on a CPU uses beta^(t + 1) (its dense one beta^t), and so does the core.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from core_oracle import random_floats, table

paddle = pytest.importorskip("paddle")

VOCABULARY, DIM, STEPS = 50, 12, 30


def paddle_optimizer(name: str, lr: Any, parameters: Any) -> Any:
    if name == "sgd":
        return paddle.optimizer.SGD(learning_rate=lr, parameters=parameters)
    if name == "adagrad":
        return paddle.optimizer.Adagrad(learning_rate=lr, epsilon=1e-6, initial_accumulator_value=0.1, parameters=parameters)
    return paddle.optimizer.Adam(learning_rate=lr, lazy_mode=True, parameters=parameters)


@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam"])
def test_thirty_steps(name: str) -> None:
    paddle.set_device("cpu")
    start = random_floats(VOCABULARY, DIM)
    embedding = paddle.nn.Embedding(VOCABULARY, DIM, sparse=True)
    embedding.weight.set_value(start)
    schedule = paddle.optimizer.lr.ExponentialDecay(0.05, 0.97)
    optimizer = paddle_optimizer(name, schedule, embedding.parameters())
    hyper = {"initial_accumulator_value": 0.1, "epsilon": 1e-6} if name == "adagrad" else {}
    rows, ids = table(DIM, name, hyper=hyper), np.arange(VOCABULARY, dtype=np.uint64)
    rows.assign(ids, start)
    rng = np.random.default_rng(5)
    for step in range(1, STEPS + 1):
        touched = np.unique(rng.integers(0, VOCABULARY, 20))
        grads = random_floats(len(touched), DIM, seed=step)
        loss = (embedding(paddle.to_tensor(touched)) * paddle.to_tensor(grads)).sum()
        loss.backward()
        assert rows.push(touched.astype(np.uint64), grads, optimizer.get_lr(), step) == 0
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
    expected = embedding.weight.numpy()
    assert np.abs(expected - start).max() > 0.1
    assert np.abs(rows.read(ids)[1] - expected).max() <= 1e-6 * np.abs(expected).max()
