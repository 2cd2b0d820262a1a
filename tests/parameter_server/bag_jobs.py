"""What trainers run in the tests of ragged ids and of several fields a table; ``alone`` is the same in plain Paddle.

65 samples in global batches of 16: two trainers have uneven parts, and one of them an empty one in the last batch.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import paddle
from paddle import nn

SAMPLES, BATCH, EPOCHS, VOCABULARY, DIM = 65, 16, 4, 30, 6
PADDING = -1


def rows(seed: int) -> Any:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (VOCABULARY, DIM)).astype(np.float32)


class Samples(paddle.io.Dataset):  # type: ignore[misc]
    """A list of words with weights, three items in two fields (the second padded), a label."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.samples = []
        for _ in range(SAMPLES):
            words = rng.integers(0, VOCABULARY, rng.integers(0, 6))
            pair = np.where(rng.random(2) < 0.3, PADDING, rng.integers(0, VOCABULARY, 2))
            weights, label = rng.uniform(0.5, 2, len(words)).astype(np.float32), rng.standard_normal(1).astype(np.float32)
            self.samples.append((words, weights, rng.integers(0, VOCABULARY), pair, label))

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def collate(samples: list[Any]) -> dict[str, Any]:
    words, weights, item, pair, label = zip(*samples, strict=True)
    return {"words": paddle.to_tensor(np.concatenate(words)), "lengths": paddle.to_tensor(np.array([len(w) for w in words])),
            "weights": paddle.to_tensor(np.concatenate(weights)), "item": paddle.to_tensor(np.array(item)[:, None]),
            "pair": paddle.to_tensor(np.stack(pair)), "label": paddle.to_tensor(np.stack(label))}  # fmt: skip


class Net(nn.Layer):
    """``tables`` False: plain Paddle, with the pooling written out."""

    def __init__(self, tables: bool) -> None:
        super().__init__()
        self.tables = tables
        if tables:
            from fleet.parameter_server import Embedding

            self.words = Embedding(DIM, vocabulary=VOCABULARY, pooling="mean")
            self.items = Embedding(DIM, vocabulary=VOCABULARY, pooling="sum", padding_id=PADDING)
        else:
            self.words, self.items = nn.Embedding(VOCABULARY, DIM), nn.Embedding(VOCABULARY, DIM)
            self.words.weight.set_value(rows(1))
            self.items.weight.set_value(rows(2))
        self.out = nn.Linear(DIM, 1)
        self.out.weight.set_value(rows(3)[:DIM, :1])

    def forward(self, batch: dict[str, Any]) -> Any:
        if self.tables:
            text = self.words(batch["words"], lengths=batch["lengths"], weights=batch["weights"])
            both = self.items(batch["item"]) + self.items(batch["pair"])
        else:
            at, bags = 0, []
            for n in batch["lengths"].tolist():
                each = batch["weights"][at : at + n].unsqueeze(1)
                total = (self.words(batch["words"][at : at + n]) * each).sum(axis=0)
                bags.append(total / each.sum() if n else paddle.zeros([DIM]))
                at += n
            text = paddle.stack(bags)
            there = (batch["pair"] != PADDING).astype("float32").unsqueeze(2)
            pair = self.items(paddle.where(batch["pair"] == PADDING, paddle.zeros_like(batch["pair"]), batch["pair"]))
            both = self.items(batch["item"]).squeeze(1) + (pair * there).sum(axis=1)
        return self.out(paddle.tanh(text + both))


def alone() -> dict[str, Any]:
    """Train in plain Paddle; return every tensor."""
    model = Net(tables=False)
    optimizer = paddle.optimizer.SGD(0.3, parameters=model.parameters())
    data = Samples()
    for _ in range(EPOCHS):
        for start in range(0, SAMPLES, BATCH):
            batch = collate([data[i] for i in range(start, min(start + BATCH, SAMPLES))])
            nn.functional.mse_loss(model(batch), batch["label"]).backward()
            optimizer.step()
            optimizer.clear_grad()
    return {name: p.numpy() for name, p in model.named_parameters()}


def train(servers: tuple[str, ...] = (), secret: str = "", announce: str = "") -> tuple[dict[str, Any], dict[str, int], int]:
    """Train under fleet; return every tensor, how many messages of each kind were sent to a server, and the steps."""
    import fleet
    from fleet import runtime, training
    from fleet.parameter_server import link, wire

    sent: dict[str, int] = {"PULL": 0, "PUSH": 0}
    names = {wire.PULL: "PULL", wire.PUSH: "PUSH"}
    send_sections = wire.send_sections

    def counted(line: Any, head: Any, sections: Any) -> None:
        if head.op in names:
            sent[names[head.op]] += 1
        send_sections(line, head, sections)

    link.wire.send_sections = counted
    os.environ.update(FLEET_SERVERS=",".join(servers), FLEET_SECRET=secret)
    try:
        fleet.init()
        model = fleet.distributed_model(Net(tables=True))
        strategy = fleet.DistributedStrategy(parameter_server={"consistency": "sync"})
        optimizer = fleet.distributed_optimizer(paddle.optimizer.SGD(0.3, parameters=model.parameters()), strategy=strategy)
        model.words.assign(rows(1))
        model.items.assign(rows(2))
        fleet.barrier()
        source = paddle.io.DataLoader(Samples(), batch_size=BATCH, collate_fn=collate)
        ids: Any = {("words", "lengths"): model.words, "item": model.items, "pair": model.items}
        if announce == "by a function":
            ids = lambda b: [(model.items, b["pair"]), (model.words, (b["words"], b["lengths"])), (model.items, b["item"])]  # noqa: E731
        loader = fleet.distributed_loader(source, ids=ids if announce else None)
        before = dict(sent)
        for _ in range(EPOCHS):
            for batch in loader:
                nn.functional.mse_loss(model(batch), batch["label"]).backward()
                optimizer.step()
                optimizer.clear_grad()
        steps = runtime.current("test").steps
        training.job().session.flush()
        counts = {name: sent[name] - before[name] for name in sent}
        found = {f"{n}.weight": getattr(model, n).download() for n in ("words", "items")}
        fleet.barrier()
        return {**found, **{name: p.numpy() for name, p in model.named_parameters()}}, counts, steps
    finally:
        link.wire.send_sections = send_sections
        fleet.shutdown()
