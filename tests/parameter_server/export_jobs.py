"""What trainers run in the tests of fleet.export: a model whose look-ups come in every form, trained a little, then exported."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import paddle
from paddle import nn


class Net(nn.Layer):
    """An open table, one used twice, bags padded and ragged; ids and weights that forward computes; rows of 16 bits; a dict as
    argument; dropout.
    """

    def __init__(self) -> None:
        from fleet.parameter_server import Embedding

        super().__init__()
        self.words = Embedding(6, initializer=nn.initializer.Normal(0.0, 0.3), weights="bfloat16")
        self.users = nn.Embedding(40, 4)
        self.bags = Embedding(5, name="bags", vocabulary=30, pooling="sqrtn", padding_id=-1, weights="float16")
        self.out, self.drop = nn.Linear(6 * 3 + 4 + 5 + 5 + 2, 3), nn.Dropout(0.5)

    def forward(self, batch: Any, dense: Any) -> Any:
        words = self.words(batch["words"]).reshape([len(batch["words"]), -1])
        users = self.users(batch["user"]) + self.users((batch["user"] + 7) % 40)
        weights = paddle.exp(batch["padded"].astype("float32") * 0.03)  # not / 30: traced, Paddle multiplies by 1 / 30
        padded = self.bags(batch["padded"], weights=weights)
        ragged = self.bags(batch["values"], lengths=batch["lengths"])
        if (dense.mean() > 100).all():  # a branch on values: both sides are exported
            dense = dense * 0
        out = self.drop(self.out(paddle.concat([words, users, padded, ragged, dense], axis=1)))
        return nn.functional.sigmoid(out[:, 0]), out[:, 1:]


def batch(n: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << 62, (200, 3))[rng.integers(0, 200, n)]
    lengths = rng.integers(0, 4, n)
    inputs = {"words": words, "user": rng.integers(0, 40, n), "padded": rng.integers(-1, 30, (n, 3)),
              "lengths": lengths, "values": rng.integers(0, 30, int(lengths.sum()))}  # fmt: skip
    return {k: paddle.to_tensor(v) for k, v in inputs.items()}, paddle.to_tensor(rng.standard_normal((n, 2)).astype("float32"))


def train_and_export(directory: str, servers: tuple[str, ...], secret: str) -> Any:
    """Train 5 steps, export, and return the scores of two batches: of rows that were trained, and of ids never seen."""
    import fleet

    os.environ.update(FLEET_SERVERS=",".join(servers), FLEET_SECRET=secret)
    fleet.init(strategy=fleet.DistributedStrategy(parameter_server={"consistency": "sync"}, batch="per_trainer"))
    try:
        model = fleet.distributed_model(Net())
        optimizer = fleet.distributed_optimizer(paddle.optimizer.Adam(0.05, parameters=model.parameters(), lazy_mode=True))

        def step(seed: int) -> None:
            first, second = model(*batch(32, 1 + seed))
            (first.mean() + (second**2).mean()).backward()
            optimizer.step()
            optimizer.clear_grad()

        for i in range(5):
            step(i)
        found: dict[str, Any] = {}
        fleet.export(model, directory, input_spec=list(batch(2, 0)))
        fleet.export(model, directory, input_spec=list(batch(2, 0)))  # in the place of the first
        found["goes on"] = model.training and type(model.users).__name__ == "Embedding" and "forward" not in model.__dict__
        model.eval()
        with paddle.no_grad():
            scores = {seed: [v.numpy() for v in model(*batch(50, seed))] for seed in (1, 99)}
        fleet.barrier()
        model.train()
        step(9)  # and it still trains
        return {**found, "scores": scores}
    finally:
        fleet.shutdown()


def score(directory: str, dtype: str = "") -> Any:
    """Return Frozen's scores of the same batches."""
    from fleet.parameter_server import Frozen

    frozen = Frozen(directory, verify=True)
    return {seed: [v.numpy() for v in frozen(*batch(50, seed))] for seed in (1, 99)}
