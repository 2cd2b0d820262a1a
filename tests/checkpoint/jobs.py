"""What trainers run in the checkpoint tests: one model with everything that a checkpoint must bring back.

Dropout draws from Paddle's generator, the noise from NumPy's, the jitter from Python's; the rate follows a schedule; the
samples are shuffled; Adam keeps state beside rows and dense weights. 37 samples in batches of 8: uneven last batches.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
from paddle import nn

import fleet

SAMPLES, BATCH, VOCABULARY = 37, 8, 30
STEPS = -(-SAMPLES // BATCH)  # of an epoch


class Net(nn.Layer):
    """A table (converted) or, with ``open``, also one without a vocabulary."""

    def __init__(self, dim: int = 4, open_table: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, dim)
        self.users = fleet.parameter_server.Embedding(3) if open_table else None
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(dim + 3 * open_table, 1)
        rng = np.random.default_rng(3)
        for parameter in self.parameters():
            parameter.set_value(rng.uniform(-0.5, 0.5, parameter.shape).astype(np.float32))

    def forward(self, words: Any) -> Any:
        parts = [self.words(words).mean(axis=1)]
        if self.users is not None:
            parts.append(self.users(words[:, 0] * 10**12))
        return self.out(self.drop(paddle.concat(parts, axis=1)))


def data() -> Any:
    rng = np.random.default_rng(5)
    words, labels = rng.integers(0, VOCABULARY, (SAMPLES, 3)), rng.standard_normal((SAMPLES, 1)).astype(np.float32)
    return paddle.io.TensorDataset([paddle.to_tensor(words), paddle.to_tensor(labels)])


@contextlib.contextmanager
def job(world_size: int, servers: tuple[str, ...] = (), secret: str = "") -> Iterator[None]:
    """Join a job as a fresh process would: Paddle's names and generators begin anew."""
    size = str(world_size)
    exported = {n: os.environ.pop(n) for n in list(os.environ) if n.startswith("PADDLE_")} if world_size == 1 else {}
    os.environ.update(FLEET_WORLD_SIZE=size, FLEET_LOCAL_SIZE=size, FLEET_SERVERS=",".join(servers), FLEET_SECRET=secret)
    try:
        with paddle.utils.unique_name.guard():
            fleet.init()
            yield
    finally:
        fleet.shutdown()
        os.environ.update(exported)


def built(servers: tuple[str, ...] = (), tables: bool = True, dim: int = 4, open_table: bool = False, optimizer: str = "Adam",
          timeout_s: float = 20.0) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return model, optimizer and schedule under fleet."""
    model = fleet.distributed_model(Net(dim, open_table))
    schedule = paddle.optimizer.lr.ExponentialDecay(0.05, 0.9)
    lazy = {"lazy_mode": True} if optimizer == "Adam" else {}
    inner = getattr(paddle.optimizer, optimizer)(schedule, parameters=model.parameters(), **lazy)
    block = {"parameter_server": {"consistency": "sync"}} if tables else {}
    strategy = fleet.DistributedStrategy(timeout_s=timeout_s, **block)
    return model, fleet.distributed_optimizer(inner, strategy=strategy), schedule


def weights(model: Any) -> dict[str, Any]:
    """Return every tensor, rows included."""
    found = {n: p.numpy() for n, p in model.named_parameters()}
    found.update({f"{n}.rows": layer.download() for n, layer in model.named_sublayers() if getattr(layer, "vocabulary", 0)})
    return found


def train(world_size: int, servers: tuple[str, ...] = (), secret: str = "", directory: str = "", epochs: int = 3,
          stop_at: int = 0, seed: int = 1, every_steps: int | None = 3, keep: int = 2, **build: Any) -> Any:  # fmt: skip
    """Train with a Checkpointer in ``directory`` or, with "", without; return what happened, and every tensor.

    ``stop_at``: leave the loop after so many steps, as an exception does. A process whose rank is not in the job does nothing.
    """
    if int(os.environ["FLEET_RANK"]) >= world_size:
        return None
    with job(world_size, servers, secret):
        for seeded in (paddle.seed, np.random.seed, random.seed):
            seeded(seed + 10 * fleet.rank())  # each trainer draws its own noise
        model, optimizer, schedule = built(servers, **build)
        source = paddle.io.DataLoader(data(), batch_size=BATCH, shuffle=True)
        announced = {0: model.words} if build.get("tables", True) else None
        loader = fleet.distributed_loader(source, ids=announced)
        ckpt = None
        if directory:
            how = {"every_steps": every_steps, "keep": keep}
            ckpt = fleet.Checkpointer(directory, model=model, optimizer=optimizer, loader=loader, **how)
        losses, rates, seen, steps = [], [], [], 0
        for epoch in ckpt.epochs(epochs) if ckpt else range(epochs):
            seen.append(epoch)
            for words, labels in loader:
                noise = paddle.to_tensor(np.random.standard_normal(labels.shape).astype(np.float32)) * random.random()
                loss = nn.functional.mse_loss(model(words), labels + 0.1 * noise)
                loss.backward()
                optimizer.step()
                optimizer.clear_grad()
                schedule.step()
                losses.append(float(loss))
                rates.append(optimizer.get_lr())
                steps += 1
                if stop_at and steps == stop_at:
                    return {"steps": steps, "losses": losses}
        fleet.barrier()
        found = {"steps": steps, "epochs": seen, "losses": losses, "rates": rates, "weights": weights(model)}
        fleet.barrier()
        return found
