"""One process of the collective benchmark: fleet, paddle.DataParallel, no communication, in turns as collective.py says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import steps
from paddle import nn

import fleet
from fleet import exchange, runtime

WORK = sys.argv[1]


class Bert(nn.Layer):
    """An encoder that tells a token for each token, by the embedding's own weight."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(steps.VOCABULARY, steps.HIDDEN), nn.Embedding(steps.LENGTH, steps.HIDDEN)
        layer = nn.TransformerEncoderLayer(steps.HIDDEN, steps.HEADS, 4 * steps.HIDDEN, dropout=0.0, activation="gelu")
        self.encoder, self.norm = nn.TransformerEncoder(layer, steps.LAYERS), nn.LayerNorm(steps.HIDDEN)

    def forward(self, tokens: Any) -> Any:
        x = self.tokens(tokens) + self.positions(paddle.arange(steps.LENGTH))
        return paddle.matmul(self.norm(self.encoder(x)), self.tokens.weight, transpose_y=True)


def make() -> Any:
    """Return the model, the same weights each time."""
    model: Any
    if WORK == "resnet18":
        model = paddle.vision.models.resnet18(num_classes=steps.CLASSES)
    elif WORK == "bert":
        model = Bert()
    else:
        layers = [[nn.Linear(a, b), nn.ReLU()] for a, b in zip(steps.WIDTHS, steps.WIDTHS[1:], strict=False)]
        model = nn.Sequential(*[part for pair in layers for part in pair][:-1])
    for parameter, value in zip(model.parameters(), steps.values([p.shape for p in model.parameters()]), strict=True):
        parameter.set_value(value)
    return model


def loss_of(model: Any, batch: tuple[Any, Any]) -> Any:
    """Return the mean loss of a batch."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def loop(model: Any, optimizer: Any, batch: tuple[Any, Any]) -> Callable[[int], None]:
    """Return a function that takes n training steps."""

    def run(n: int) -> None:
        for _ in range(n):
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.clear_grad()

    return run


def learned(model: Any) -> Any:
    """Return all that is learned, float32[n]; BatchNorm's running averages, parameters to Paddle, are each process's own."""
    return np.concatenate([p.numpy().ravel() for p in model.parameters() if not p.stop_gradient])


def sgd(model: Any) -> Any:
    """Return plain SGD."""
    return paddle.optimizer.SGD(steps.WORKS[WORK].rate, parameters=model.parameters())


def main() -> None:
    """Check the answer, then run what stdin says."""
    fleet.init(strategy=fleet.DistributedStrategy(batch="per_trainer"))
    job = runtime.current("the benchmark")
    assert job.group.backend == "gloo"  # opens Paddle's own groups: DataParallel without them does nothing, and says nothing
    rank, world_size = job.role.rank, job.role.world_size
    batches = [tuple(map(paddle.to_tensor, steps.data(WORK, other))) for other in range(world_size)]
    models = {name: make() for name in ("fleet", "paddle", "alone", "one_process")}
    model = fleet.distributed_model(models["fleet"])
    run = {
        "fleet": loop(model, fleet.distributed_optimizer(sgd(model)), batches[rank]),
        "paddle": loop(paddle.DataParallel(models["paddle"]), sgd(models["paddle"]), batches[rank]),
        "alone": loop(models["alone"], sgd(models["alone"]), batches[rank]),
    }
    for one in run.values():
        one(steps.NUM_CHECKED)
    reference, optimizer = models["one_process"], sgd(models["one_process"])
    for _ in range(steps.NUM_CHECKED):  # BatchNorm sees each process's part by itself, as it does there
        for batch in batches:
            (loss_of(reference, batch) / world_size).backward()
        optimizer.step()
        optimizer.clear_grad()
    flat = {name: learned(one) for name, one in models.items()}
    moved = float(np.abs(flat["one_process"] - learned(make())).max())
    apart = {name: float(np.abs(flat[name] - flat["one_process"]).max()) for name in ("fleet", "paddle")}
    for name, gap in apart.items():
        assert gap < 1e-3 * moved, f"{name} and one process computed different weights: {gap}, after moving by {moved}"
        assert len({v.tobytes() for v in exchange.all_gather(flat[name][::97])}) == 1, f"{name}: the trainers differ"
    steps.serve(run, lambda: job.meet("a block"), {**apart, "moved": moved})


if __name__ == "__main__":
    main()
