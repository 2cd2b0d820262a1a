"""A job of one trainer with its tables in its own process, beside the same script in plain Paddle: for tests without processes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import paddle
from parameter_server import ps_jobs

import fleet
from fleet import training


def train(name: str, epochs: int = 4, checkpoints: str | None = None, model: Any = None, **block: Any) -> dict[str, Any]:
    """Train ps_jobs' model under fleet, alone; return every tensor, rows included, as the servers hold them at the end."""
    kept = {n: os.environ.pop(n) for n in list(os.environ) if n.startswith(("FLEET_", "PADDLE_"))}
    fleet.init()
    try:
        model = fleet.distributed_model(model or ps_jobs.Net(sparse=False))
        strategy = fleet.DistributedStrategy(parameter_server=block)
        optimizer = fleet.distributed_optimizer(ps_jobs.make_optimizer(name, model.parameters()), strategy=strategy)
        data = paddle.io.TensorDataset([paddle.to_tensor(a) for a in ps_jobs.data()])
        source = paddle.io.DataLoader(data, batch_size=ps_jobs.BATCH)
        loader = fleet.distributed_loader(source, ids={0: model.users, 1: model.words})
        saver = fleet.Checkpointer(checkpoints, model=model, optimizer=optimizer, loader=loader) if checkpoints else None
        for _ in saver.epochs(epochs) if saver is not None else range(epochs):
            for users, words, labels in loader:
                ps_jobs.step(model, optimizer, users, words, labels)
        return tensors(model)
    finally:
        fleet.shutdown()
        os.environ.update(kept)


def tensors(model: Any) -> dict[str, Any]:
    """Return every tensor of a model whose embeddings are tables."""
    weights = training.job().runtime.tables
    weights.flush()
    weights.pull_dense()
    rows = {name: value.numpy() for name, value in weights.weights().items()}
    return {**rows, **{n: p.numpy() for n, p in model.named_parameters()}}


def train_one_step_behind(name: str, epochs: int = 4) -> dict[str, Any]:
    """The same script in plain Paddle, each gradient computed at the tensors before the last step, as prefetch=1 does.

    Only an epoch's first batch looks its rows up behind the last push: nobody announced it earlier.
    """
    live, stale = ps_jobs.Net(sparse=False), ps_jobs.Net(sparse=False)
    optimizer = ps_jobs.make_optimizer(name, live.parameters())
    users, words, labels = ps_jobs.data()
    before = {n: p.numpy() for n, p in live.named_parameters()}
    for _ in range(epochs):
        for start in range(0, ps_jobs.SAMPLES, ps_jobs.BATCH):
            now = {n: p.numpy() for n, p in live.named_parameters()}
            for n, p in stale.named_parameters():
                p.set_value(now[n] if start == 0 and n != "out.weight" and n != "out.bias" else before[n])
            cut = slice(start, start + ps_jobs.BATCH)
            loss = ps_jobs.loss_of(stale, users[cut], words[cut], labels[cut])
            loss.backward()
            for p, q in zip(live.parameters(), stale.parameters(), strict=True):
                p.grad = q.grad
            optimizer.step()
            optimizer.clear_grad()
            stale.clear_gradients()
            before = now
    return {n: p.numpy() for n, p in live.named_parameters()}


def largest_difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """Return the largest difference of a tensor over its largest value."""
    assert set(found) == set(expected)
    return max(float(np.abs(found[n] - expected[n]).max() / np.abs(expected[n]).max()) for n in expected)
