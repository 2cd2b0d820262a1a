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


def train_one_step_behind(name: str, epochs: int = 4, merge_steps: int = 1) -> dict[str, Any]:
    """The same script in plain Paddle, each gradient computed at the rows before the last step, as prefetch=1 does.

    The dense parameters are never behind, nor the rows of an epoch's first batch: nobody announced it earlier.
    With merge_steps the rows move by the sum of so many steps' gradients, behind the last of them (half_async).
    """
    live, stale = ps_jobs.Net(sparse=False), ps_jobs.Net(sparse=False)
    optimizer = ps_jobs.make_optimizer(name, live.parameters())
    users, words, labels = ps_jobs.data()
    before = {n: p.numpy() for n, p in live.named_parameters()}
    merged: list[dict[str, Any]] = []
    num_steps = epochs * -(-ps_jobs.SAMPLES // ps_jobs.BATCH)
    for epoch in range(epochs):
        for start in range(0, ps_jobs.SAMPLES, ps_jobs.BATCH):
            now = {n: p.numpy() for n, p in live.named_parameters()}
            for n, p in stale.named_parameters():
                p.set_value(now[n] if start == 0 or n.startswith("out.") else before[n])
            cut = slice(start, start + ps_jobs.BATCH)
            loss = ps_jobs.loss_of(stale, users[cut], words[cut], labels[cut])
            loss.backward()
            merged.append({n: p.grad.clone() for n, p in stale.named_parameters() if p.grad is not None})
            step = epoch * -(-ps_jobs.SAMPLES // ps_jobs.BATCH) + start // ps_jobs.BATCH + 1
            sends = step % merge_steps == 0 or step == num_steps
            for n, p in live.named_parameters():
                of = merged[-1:] if n.startswith("out.") else merged if sends else []
                p.grad = sum(g[n] for g in of) if of else None
            merged = [] if sends else merged
            optimizer.step()
            optimizer.clear_grad()
            stale.clear_gradients()
            before = now
    return {n: p.numpy() for n, p in live.named_parameters()}


def largest_difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """Return the largest difference of a tensor over its largest value."""
    assert set(found) == set(expected)
    return max(float(np.abs(found[n] - expected[n]).max() / np.abs(expected[n]).max()) for n in expected)
