"""One process of the collective benchmark: PyTorch DDP, and no communication, in turns as benchmarks/collective.py says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import steps
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

WORK, STORE, RANK, WORLD_SIZE = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


class Bert(nn.Module):
    """An encoder that tells a token for each token, by the embedding's own weight."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(steps.VOCABULARY, steps.HIDDEN), nn.Embedding(steps.LENGTH, steps.HIDDEN)
        layer = nn.TransformerEncoderLayer(steps.HIDDEN, steps.HEADS, 4 * steps.HIDDEN, 0.0, "gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, steps.LAYERS, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(steps.HIDDEN)

    def forward(self, tokens: Any) -> Any:
        x = self.tokens(tokens) + self.positions(torch.arange(steps.LENGTH))
        return self.norm(self.encoder(x)) @ self.tokens.weight.T


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, wide: int, narrow: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(wide, narrow, 3, stride, 1, bias=False), nn.BatchNorm2d(narrow)
        self.conv2, self.norm2 = nn.Conv2d(narrow, narrow, 3, 1, 1, bias=False), nn.BatchNorm2d(narrow)
        same = wide == narrow and stride == 1
        self.short = None if same else nn.Sequential(nn.Conv2d(wide, narrow, 1, stride, bias=False), nn.BatchNorm2d(narrow))

    def forward(self, x: Any) -> Any:
        found = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return (found + (x if self.short is None else self.short(x))).relu()


def resnet18() -> nn.Module:
    """Return ResNet-18 as Paddle's model zoo has it."""
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = [Block(a, b, 2 if a != b else 1) for a, b in zip(widths, widths[1:], strict=False)]
    begin = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*begin, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, steps.CLASSES))


def make() -> nn.Module:
    """Return the model, the same weights each time."""
    if WORK == "mlp":
        layers = [[nn.Linear(a, b), nn.ReLU()] for a, b in zip(steps.WIDTHS, steps.WIDTHS[1:], strict=False)]
        model: nn.Module = nn.Sequential(*[part for pair in layers for part in pair][:-1])
    else:
        model = resnet18() if WORK == "resnet18" else Bert()
    found = list(model.parameters())
    with torch.no_grad():
        for parameter, value in zip(found, steps.values([list(p.shape) for p in found]), strict=True):
            parameter.copy_(torch.from_numpy(value))
    return model


def loss_of(model: nn.Module, batch: tuple[Any, ...]) -> Any:
    """Return the mean loss of a batch."""
    guess = model(batch[0])
    return nn.functional.cross_entropy(guess.reshape(-1, guess.shape[-1]), batch[1].reshape(-1))


def loop(model: nn.Module, batch: tuple[Any, ...]) -> Callable[[int], None]:
    """Return a function that takes n training steps."""
    optimizer = torch.optim.SGD(model.parameters(), steps.WORKS[WORK].rate)

    def run(n: int) -> None:
        for _ in range(n):
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def main() -> None:
    """Check the answer, then run what stdin says."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{STORE}", rank=RANK, world_size=WORLD_SIZE)
    batches = [tuple(map(torch.from_numpy, steps.data(WORK, other))) for other in range(WORLD_SIZE)]
    replica, alone, reference = make(), make(), make()
    run = {"ddp": loop(DistributedDataParallel(replica), batches[RANK]), "torch_alone": loop(alone, batches[RANK])}
    for one in run.values():
        one(steps.NUM_CHECKED)
    optimizer = torch.optim.SGD(reference.parameters(), steps.WORKS[WORK].rate)
    for _ in range(steps.NUM_CHECKED):
        for batch in batches:
            (loss_of(reference, batch) / WORLD_SIZE).backward()
        optimizer.step()
        optimizer.zero_grad()
    pairs = zip(replica.parameters(), reference.parameters(), strict=True)
    apart = max(float(np.abs((a - b).detach().numpy()).max()) for a, b in pairs)
    moved = max(float((a - b).detach().abs().max()) for a, b in zip(replica.parameters(), make().parameters(), strict=True))
    assert apart < 1e-3 * moved, f"DDP and one process computed different weights: {apart}, after moving by {moved}"
    steps.serve(run, distributed.barrier, {"ddp": apart})


if __name__ == "__main__":
    main()
