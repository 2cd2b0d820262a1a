"""What trainers run in the checkpoint tests: one model with everything that a checkpoint must bring back.

Dropout draws from Paddle's generator, the noise from NumPy's, the jitter from Python's; the rate follows a schedule; the
samples are shuffled; Adam keeps state beside rows and dense weights. 37 samples in batches of 8: uneven last batches.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
from paddle import nn

import fleet
import fleet.runtime
from fleet import disk

SAMPLES, BATCH, VOCABULARY = 37, 8, 30
STEPS = -(-SAMPLES // BATCH)  # of an epoch


class Net(nn.Layer):
    """A table (converted) or, with ``open``, also one without a vocabulary."""

    def __init__(self, dim: int = 4, open_table: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, dim)
        self.users = fleet.parameter_server.Embedding(3) if open_table else None
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(4, 1)
        rng = np.random.default_rng(3)
        for parameter in self.parameters():
            parameter.set_value(rng.uniform(-0.5, 0.5, parameter.shape).astype(np.float32))

    def forward(self, words: Any) -> Any:
        out = self.out(self.drop(self.words(words).mean(axis=1)[:, :4]))
        return out if self.users is None else out + self.users(words[:, 0] * 10**12).sum(axis=1, keepdim=True)


class Rounds(fleet.Codec):
    """Sends float16; what rounding loses is each trainer's own, and goes with the next step."""

    name = "rounds"
    error_feedback = True

    def encode(self, part: Any) -> bytes:
        return part.values.astype(np.float16).tobytes()

    def decode(self, payload: bytes, part: Any) -> Any:
        return np.frombuffer(payload, np.float16).astype(np.float32)


class Counter:
    """An object of the user's own."""

    def __init__(self) -> None:
        self.seen = 0

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "tensor": paddle.full([2], self.seen)}

    def set_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]
        assert state["tensor"].tolist() == [self.seen] * 2


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
          timeout_s: float = 20.0, strategies: dict[str, Any] | None = None,
          rounds: bool = False) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return model, optimizer and schedule under fleet."""
    model = fleet.distributed_model(Net(dim, open_table))
    schedule = paddle.optimizer.lr.ExponentialDecay(0.05, 0.9)
    lazy = {"lazy_mode": True} if optimizer == "Adam" else {}
    inner = getattr(paddle.optimizer, optimizer)(schedule, parameters=model.parameters(), **lazy)
    block = {"parameter_server": {"consistency": "sync"}} if tables else {}
    custom = {"custom": [Rounds()]} if rounds else {}
    strategy = fleet.DistributedStrategy(timeout_s=timeout_s, **block, **custom, **(strategies or {}))
    return model, fleet.distributed_optimizer(inner, strategy=strategy), schedule


def weights(model: Any) -> dict[str, Any]:
    """Return every tensor, rows included."""
    found = {n: p.numpy() for n, p in model.named_parameters()}
    found.update({f"{n}.rows": layer.download() for n, layer in model.named_sublayers() if getattr(layer, "vocabulary", 0)})
    return found


def train(world_size: int, servers: tuple[str, ...] = (), secret: str = "", directory: str = "", epochs: int = 3,
          stop_at: int = 0, seed: int = 1, every_steps: int | None = 3, keep: int = 2, more: dict[str, Any] | None = None,
          scores: list[float] | None = None, own: str = "counter", **build: Any) -> Any:  # fmt: skip
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
        ckpt, counter = None, Counter()
        if directory:
            how: dict[str, Any] = {"every_steps": every_steps, "keep": keep, "objects": {own: counter}, **(more or {})}
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
                counter.seen += 1
                losses.append(float(loss))
                rates.append(optimizer.get_lr())
                steps += 1
                if stop_at and steps == stop_at:
                    return {"steps": steps, "losses": losses}
            if ckpt and scores:
                ckpt.score(scores[epoch])
        fleet.barrier()
        found = {"steps": steps, "epochs": seen, "losses": losses, "rates": rates, "weights": weights(model)}
        found.update(seen=counter.seen, best=ckpt.best() if ckpt else None)
        fleet.barrier()
        return found


def loads(world_size: int, directories: list[str], servers: tuple[str, ...] = (), secret: str = "",
          has_loader: bool = True, **build: Any) -> Any:  # fmt: skip
    """Try to restore from each directory, in one job; return for each (the error's type and text or None, what moved, step)."""
    if int(os.environ["FLEET_RANK"]) >= world_size:
        return None
    with job(world_size, servers, secret):
        model, optimizer, _ = built(servers, **build)
        loader = fleet.distributed_loader(paddle.io.DataLoader(data(), batch_size=BATCH, shuffle=True))
        found = []
        for directory in directories:
            ckpt = fleet.Checkpointer(directory, model=model, optimizer=optimizer, loader=loader if has_loader else None)
            before, position, error = weights(model), loader.state(), None
            try:
                ckpt.restore()
            except fleet.errors.FleetError as caught:
                error = f"{type(caught).__name__}: {caught}"
            after = weights(model)
            moved = [n for n in before if before[n].tobytes() != after[n].tobytes()]
            moved += ["loader"] * (position != loader.state()) + ["optimizer"] * bool(optimizer.inner._accumulators_holder)
            found.append((error, moved, ckpt.step))
            fleet.barrier()
        return found


def steps(model: Any, optimizer: Any, schedule: Any, count: int = 2) -> None:
    """Train without a loader, so that every trainer computes the same."""
    optimizer._job.runtime.share = fleet.runtime.Share(1, fleet.world_size())
    words, labels = data()[:8]
    for _ in range(count):
        loss = nn.functional.mse_loss(model(paddle.to_tensor(words)), paddle.to_tensor(labels))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()


def save_twice(world_size: int, directory: str, servers: tuple[str, ...] = (), secret: str = "") -> Any:
    """Save at the same step twice; return the names in the directory after each."""
    if int(os.environ["FLEET_RANK"]) >= world_size:
        return None
    with job(world_size, servers, secret):
        model, optimizer, schedule = built(servers)
        ckpt = fleet.Checkpointer(directory, model=model, optimizer=optimizer)
        steps(model, optimizer, schedule)
        names = []
        for _ in range(2):
            ckpt.save()
            ckpt.wait()
            names.append(sorted(os.listdir(directory)))
            fleet.barrier()
        return names


def saves_alone(world_size: int, directory: str, what: str) -> Any:
    """Trainer 0 calls a function that all must call, and waits 0.7 s for the others; return its error."""
    with job(world_size):
        model, optimizer, _ = built(tables=False, timeout_s=0.7)
        ckpt = fleet.Checkpointer(directory, model=model, optimizer=optimizer)
        path = f"{directory}/m"
        calls = {"Checkpointer.save": ckpt.save, "Checkpointer.restore": ckpt.restore,
                 "fleet.save": lambda: fleet.save(model, path), "fleet.load": lambda: fleet.load(model, path)}  # fmt: skip
        if fleet.rank() == 0:
            began = time.monotonic()
            try:
                calls[what]()
            except fleet.errors.FleetError as error:
                return f"{type(error).__name__}: {error}", time.monotonic() - began
            return None
        time.sleep(1.5)
        return None


def fills_disk(world_size: int, directory: str, servers: tuple[str, ...] = (), secret: str = "", dim: int = 4,
               tables: bool = True) -> Any:  # fmt: skip
    """Save, save on a disk without room, save once there is room; return the error, and the names after each."""
    if int(os.environ["FLEET_RANK"]) >= world_size:
        return None
    with job(world_size, servers, secret):
        model, optimizer, schedule = built(servers, tables=tables, dim=dim)
        ckpt = fleet.Checkpointer(directory, model=model, optimizer=optimizer, keep=1)
        steps(model, optimizer, schedule)
        ckpt.save()
        ckpt.wait()
        names = [sorted(os.listdir(directory))]
        steps(model, optimizer, schedule, 1)
        filler = os.path.join(directory, "filler")
        if fleet.rank() == 0:
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        fleet.barrier()
        error = None
        try:
            ckpt.save()
            ckpt.wait()
        except fleet.errors.SnapshotError as caught:
            error = str(caught)
        fleet.barrier()
        if fleet.rank() == 0:
            os.unlink(filler)
        names.append(sorted(os.listdir(directory)))
        fleet.barrier()
        steps(model, optimizer, schedule, 1)
        ckpt.save()
        ckpt.wait()
        names.append(sorted(os.listdir(directory)))
        fleet.barrier()
        return error, names


def disk_of_one_fails(world_size: int, directory: str) -> Any:
    """Trainer 1's disk refuses: a save that nobody asked for, then one that the script calls; return the error and the names."""
    with job(world_size):
        model, optimizer, schedule = built(tables=False)
        ckpt = fleet.Checkpointer(directory, model=model, optimizer=optimizer, every_steps=2, objects={"counter": Counter()})
        steps(model, optimizer, schedule)
        ckpt.wait()

        def fault(operation: str, path: str) -> None:
            if "trainer-1" in path:
                raise OSError(28, os.strerror(28))

        error = None
        disk.fault = fault
        try:
            steps(model, optimizer, schedule)  # goes on
            ckpt.wait()
            ckpt.save()
        except fleet.errors.SnapshotError as caught:
            error = str(caught)
        finally:
            disk.fault = None
        fleet.barrier()
        names = sorted(os.listdir(directory))
        fleet.barrier()
        steps(model, optimizer, schedule)
        ckpt.wait()
        return ckpt.step, error, names, sorted(os.listdir(directory))


def _predictions(model: Any) -> tuple[Any, Any]:
    model.eval()
    words = paddle.to_tensor(np.arange(30).reshape(10, 3))
    rows = model.users(words[:, 0] * 10**12).numpy() if model.users is not None else None
    found = model(words).numpy()
    model.train()
    return found, rows


def saves_weights(world_size: int, path: str, servers: tuple[str, ...] = (), secret: str = "", **build: Any) -> Any:
    """Train a little, save, and return predictions and rows of the open table."""
    if int(os.environ["FLEET_RANK"]) >= world_size:
        return None
    with job(world_size, servers, secret):
        model, optimizer, schedule = built(servers, **build)
        steps(model, optimizer, schedule)
        fleet.save(model, path)
        found = _predictions(model)
        fleet.barrier()
        return found


def loads_weights(world_size: int, path: str, servers: tuple[str, ...] = (), secret: str = "", **build: Any) -> Any:
    """Load into a fresh model; return predictions, rows of the open table, and the error."""
    if int(os.environ["FLEET_RANK"]) >= world_size:
        return None
    with job(world_size, servers, secret):
        model, optimizer, schedule = built(servers, **build)
        error = None
        try:
            fleet.load(model, path)
        except fleet.errors.FleetError as caught:
            error = f"{type(caught).__name__}: {caught}"
        found = _predictions(model)
        fleet.barrier()
        return *found, error
