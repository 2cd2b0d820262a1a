"""How many images a second? fleet's reader beside paddle.io.DataLoader with Paddle's own views; and training. Higher is better.

    python benchmarks/imagenet.py [--images 128] [--batch_size 32] [--threads 1] [--repeats 5] [--record]

JPEG files of 500 x 375 pixels, as ImageNet's usually are, made here; a random part of each as 224 x 224 pixels, mirrored or not, in
other colours, normalised, as tensors. Rival: paddle.vision's DatasetFolder and transforms in a paddle.io.DataLoader with as many
worker processes as fleet has threads (0: both in the loop). Both decode by Pillow; the two in turns. The answer is checked first:
both readers give the same labels, and for the middle of an image nearly the same pixels. Training: ResNet-18, fleet's reader.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from parts import record

sys.path.insert(0, str(record.ROOT))
WIDE, TALL, SIDE, CLASSES = 500, 375, 224, 4


def write_images(folder: Path, num: int) -> None:
    """Write images with as much detail as photographs have: some 60 kB each."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(num):
        image = np.zeros((TALL, WIDE, 3))
        for cells in (4, 16, 64, 250):
            small = rng.normal(0, 400 / cells**0.7, (cells * 3 // 4, cells, 3)).astype(np.float32)
            image += np.stack([np.asarray(Image.fromarray(small[..., c]).resize((WIDE, TALL), 2)) for c in range(3)], -1)
        place = folder / f"class{i % CLASSES}"
        place.mkdir(exist_ok=True)
        Image.fromarray(np.clip(image + 128, 0, 255).astype(np.uint8)).save(place / f"{i:05}.JPEG", quality=90)


def ours(folder: Path, given: argparse.Namespace, random: bool) -> Any:
    """Return fleet's loader."""
    from fleet.data import CentreView, ImageLoader, Images, RandomView

    view = RandomView() if random else CentreView(1.0)
    return ImageLoader(Images.folder(folder), given.batch_size, SIDE, view=view, shuffle=random, num_threads=given.threads)


def theirs(folder: Path, given: argparse.Namespace, random: bool) -> Any:
    """Return Paddle's loader."""
    import paddle
    from paddle.vision import datasets, transforms

    from fleet.data.image_loader import MEAN, STD

    mean, std = ([255 * value for value in values] for values in (MEAN, STD))
    views = [transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip(), transforms.ColorJitter(0.4, 0.4, 0.4)]
    middle = [transforms.CenterCrop(TALL), transforms.Resize((SIDE, SIDE))]
    last = [transforms.Transpose(), transforms.Normalize(mean, std)]
    found = datasets.DatasetFolder(str(folder), transform=transforms.Compose([*(views if random else middle), *last]))
    return paddle.io.DataLoader(found, batch_size=given.batch_size, shuffle=random, num_workers=given.threads)


def check(folder: Path, given: argparse.Namespace) -> float:
    """Return how far the two readers' pixels are apart, on the average, in units of a colour's deviation."""
    (mine, labels), (other, truth) = (next(iter(one(folder, given, False))) for one in (ours, theirs))
    assert (labels.numpy() == truth.numpy().ravel()).all(), "the readers differ in the labels"
    apart = float(np.abs(mine.numpy() - other.numpy()).mean())
    assert apart < 0.2, f"the readers differ in the pixels by {apart} on the average"
    return apart


def rate_of(loader: Any, step: Callable[[Any, Any], None] | None = None) -> float:
    """Return images/s of a pass."""
    began, num = time.perf_counter(), 0
    for images, labels in loader:
        num += len(images)
        if step is not None:
            step(images, labels)
    return num / (time.perf_counter() - began)


def trained() -> Callable[[Any, Any], None]:
    """Return a training step of ResNet-18."""
    import paddle

    model = paddle.vision.models.resnet18(num_classes=CLASSES)
    optimizer = paddle.optimizer.Momentum(0.01, 0.9, model.parameters())

    def step(images: Any, labels: Any) -> None:
        paddle.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.clear_grad()

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="append the lines to results/imagenet.jsonl")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    command = " ".join(["python", "benchmarks/imagenet.py", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name), given.images)
        apart = check(Path(name), given)
        loaders = {"fleet": ours(Path(name), given, True), "paddle": theirs(Path(name), given, True)}
        rates: dict[str, list[float]] = {one: [] for one in loaders}
        for _ in range(given.repeats):
            for one, loader in loaders.items():
                rates[one].append(rate_of(loader))
        num = min(given.images, 2 * given.batch_size)
        small = Path(name) / "some"
        small.mkdir()
        write_images(small, num)
        training = [rate_of(ours(small, given, True), trained()) for _ in range(2)]
    value, spread = record.spread(rates["fleet"])
    rival = record.spread(rates["paddle"])[0]
    common = {"unit": "images/s", "threads": given.threads, "images": given.images}
    record.write("imagenet", {
        "question": f"ImageNet's JPEG files, augmented, {given.threads} thread(s)", **common, "value": round(value, 1),
        "spread": [round(v, 1) for v in spread], "rival": "paddle.io.DataLoader, as many workers", "rival_value": round(rival, 1),
        "ratio": round(value / rival, 2), "pixels_apart": round(apart, 4), "repeats": given.repeats,
    }, command, given.record)  # fmt: skip
    record.write("imagenet", {
        "question": "ResNet-18 at 224 pixels, reading and training, one process", **common, "value": round(max(training), 2),
    }, command, given.record)  # fmt: skip


if __name__ == "__main__":
    main()
