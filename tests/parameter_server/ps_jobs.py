"""What trainers run in the sameness tests: one small model with two embeddings, trained by fleet or by Paddle alone.

The data: 65 samples in global batches of 16, in order. The last batch of an epoch holds one sample, so with two or three
trainers the parts are uneven in every batch but some, and empty in the last. Ten epochs are 50 steps.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import paddle
from paddle import nn

SAMPLES, BATCH, EPOCHS, VOCABULARY = 65, 16, 10, 40


class Net(nn.Layer):
    """Users and words of odd and even dim, words looked up thrice a sample, a dense layer behind them."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.users = nn.Embedding(VOCABULARY, 5, sparse=sparse)
        self.words = nn.Embedding(VOCABULARY, 8, sparse=sparse)
        self.out = nn.Linear(13, 1)
        rng = np.random.default_rng(3)
        for parameter in self.parameters():
            parameter.set_value(rng.uniform(-0.5, 0.5, parameter.shape).astype(np.float32))

    def forward(self, users: Any, words: Any) -> Any:
        joined = paddle.concat([self.users(users), self.words(words).mean(axis=1)], axis=1)
        return self.out(paddle.tanh(joined))


def data() -> tuple[Any, Any, Any]:
    """Users that repeat often, words that repeat within a sample and between trainers."""
    rng = np.random.default_rng(5)
    users = (rng.pareto(1.0, SAMPLES).astype(np.int64)) % VOCABULARY
    return users, rng.integers(0, VOCABULARY, (SAMPLES, 3)), rng.standard_normal((SAMPLES, 1)).astype(np.float32)


def make_optimizer(name: str, parameters: Any) -> Any:
    if name == "sgd":
        return paddle.optimizer.SGD(0.1, parameters=parameters)
    if name == "adagrad":
        return paddle.optimizer.Adagrad(0.1, epsilon=1e-6, parameters=parameters)
    if name == "adagrad_from_0.1":
        return paddle.optimizer.Adagrad(0.1, parameters=parameters, initial_accumulator_value=0.1)
    if name == "sgd_l2":
        return paddle.optimizer.SGD(0.1, parameters=parameters, weight_decay=0.1)
    if name == "momentum":
        return paddle.optimizer.Momentum(0.05, parameters=parameters, momentum=0.8)
    if name == "nesterov":
        return paddle.optimizer.Momentum(0.05, parameters=parameters, momentum=0.8, use_nesterov=True, weight_decay=0.01)
    if name == "adamw":
        spared = {p.name for p in parameters if len(p.shape) == 1}  # biases do not decay
        decays = lambda name: name not in spared  # noqa: E731
        return paddle.optimizer.AdamW(0.02, parameters=parameters, weight_decay=0.1, apply_decay_param_fun=decays)
    schedule = paddle.optimizer.lr.StepDecay(0.01, step_size=20, gamma=0.5)  # the rate travels with the push
    return paddle.optimizer.Adam(schedule, parameters=parameters, lazy_mode=True)


def error_of(tensors: dict[str, Any]) -> float:
    """The mean squared error over all samples of a model with these tensors."""
    model = Net(sparse=False)
    for name, parameter in model.named_parameters():
        parameter.set_value(tensors[name])
    return float(loss_of(model, *data()))


def train_alone(name: str, epochs: int = EPOCHS) -> dict[str, Any]:
    """The same script in plain Paddle; returns every tensor."""
    model = Net(sparse=name == "adam")  # lazy Adam is Paddle's on sparse gradients only
    optimizer = make_optimizer(name, model.parameters())
    users, words, labels = data()
    for _ in range(epochs):
        for start in range(0, SAMPLES, BATCH):
            cut = slice(start, start + BATCH)
            step(model, optimizer, users[cut], words[cut], labels[cut])
    return {n: p.numpy() for n, p in model.named_parameters()}


def train(name: str, world_size: int, servers: tuple[str, ...], secret: str, announce: bool = True, **block: Any) -> Any:
    """The same script under fleet, as one of ``world_size`` trainers; returns every tensor, rows included.

    A process whose rank is not among them does nothing: two processes play the jobs of one trainer, too.
    """
    rank = int(os.environ["FLEET_RANK"])
    if rank >= world_size:
        return None
    import fleet
    from fleet import runtime

    size = str(world_size)
    # What fleet exported for Paddle's group of an earlier job of two would contradict a job of one.
    exported = {n: os.environ.pop(n) for n in list(os.environ) if n.startswith("PADDLE_")} if world_size == 1 else {}
    os.environ.update(FLEET_WORLD_SIZE=size, FLEET_LOCAL_SIZE=size, FLEET_SERVERS=",".join(servers), FLEET_SECRET=secret)
    try:
        fleet.init()
        model = fleet.distributed_model(Net(sparse=False))
        strategy = fleet.DistributedStrategy(parameter_server={"consistency": "sync", **block})
        optimizer = fleet.distributed_optimizer(make_optimizer(name, model.parameters()), strategy=strategy)
        source = paddle.io.DataLoader(paddle.io.TensorDataset([paddle.to_tensor(a) for a in data()]), batch_size=BATCH)
        loader = fleet.distributed_loader(source, ids={0: model.users, 1: model.words} if announce else None)
        for _ in range(EPOCHS):
            for users, words, labels in loader:
                step(model, optimizer, users, words, labels)
        tables = runtime.current("test").tables
        tables.flush()
        fleet.barrier()
        rows = {f"{n}.weight": getattr(model, n).download() for n in ("users", "words")}
        tables.pull_dense()
        fleet.barrier()  # nobody leaves while another still reads
        return {**rows, **{n: p.numpy() for n, p in model.named_parameters()}}
    finally:
        fleet.shutdown()
        os.environ.update(exported)


def loss_of(model: Any, users: Any, words: Any, labels: Any) -> Any:
    """The loss of a batch of arrays or tensors."""
    users, words, labels = (paddle.to_tensor(a) for a in (users, words, labels))
    return nn.functional.mse_loss(model(users, words), labels)


def step(model: Any, optimizer: Any, users: Any, words: Any, labels: Any) -> None:
    """One step of the script."""
    loss_of(model, users, words, labels).backward()
    optimizer.step()
    optimizer.clear_grad()
    if isinstance(optimizer._learning_rate, paddle.optimizer.lr.LRScheduler):
        optimizer._learning_rate.step()


def train_until(servers: tuple[str, ...], secret: str, secrets: Any = None, consistency: Any = "sync", dims: Any = (4, 4),
                die_at: int | None = None, steps: int = 100_000, timeout_s: float = 20.0) -> int:  # fmt: skip
    """Train until something breaks; trainer 1 dies by KILL at step ``die_at``. Pairs are what each of the two trainers does."""
    import signal

    import fleet

    rank = int(os.environ["FLEET_RANK"])
    os.environ.update(FLEET_WORLD_SIZE="2", FLEET_SERVERS=",".join(servers), FLEET_SECRET=secrets[rank] if secrets else secret)
    try:
        mode = consistency if isinstance(consistency, str) else consistency[rank]
        strategy = fleet.DistributedStrategy(parameter_server={"consistency": mode}, timeout_s=timeout_s, batch="per_trainer")
        fleet.init(strategy=strategy)
        model = fleet.distributed_model(nn.Sequential(nn.Embedding(50, dims[rank]), nn.Linear(dims[0], 1)))
        optimizer = fleet.distributed_optimizer(paddle.optimizer.SGD(0.01, parameters=model.parameters()))
        for step in range(steps):
            if step == die_at and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            model(paddle.to_tensor([step % 50, rank])).sum().backward()
            optimizer.step()
            optimizer.clear_grad()
            print(f"step {step}", flush=True)
        return steps
    finally:
        fleet.shutdown()
