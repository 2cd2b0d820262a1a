"""The pictures of the example: eight patterns, made on first use, laid out as ImageNet is: folders, and a list for the test.

A class is a pattern that stays what it is in a mirror, in part, and in other colours; colours, size, place and noise are random.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from fleet.data import Images
from fleet.data.criteo import locked

PATTERNS = {
    "checks": lambda x, y, rng: np.sign(np.sin(x) * np.sin(y)),
    "columns": lambda x, y, rng: np.sin(x),
    "dots": lambda x, y, rng: 2.0 * (np.sin(x) * np.sin(y) > 0.6) - 1,
    "grains": lambda x, y, rng: rng.uniform(-1, 1, x.shape),
    "plain": lambda x, y, rng: np.zeros(x.shape),
    "rays": lambda x, y, rng: np.sin(6 * np.arctan2(y, x)),
    "rings": lambda x, y, rng: np.sin(np.hypot(x, y)),
    "rows": lambda x, y, rng: np.sin(y),
}


def picture(name, side, rng):
    """Return uint8[side, side or a bit more, 3]: one pattern."""
    wide = side + int(rng.integers(side // 2))
    waves = 2 * np.pi * rng.uniform(3, 6) / side
    y, x = np.mgrid[:side, :wide]
    x, y = (x - rng.uniform(0.3, 0.7) * wide) * waves, (y - rng.uniform(0.3, 0.7) * side) * waves
    dark, light = rng.uniform(20, 110, 3), rng.uniform(145, 235, 3)
    values = dark + (light - dark) * (PATTERNS[name](x, y, rng)[..., None] + 1) / 2
    return np.clip(values + rng.normal(0, 12, values.shape), 0, 255).astype(np.uint8)


def planted(directory, num_train, num_test, side, seed=0):
    """Return Images for training and for the test, made on first use: ``side`` pixels high."""
    home = Path(directory) / f"{num_train}-{num_test}-images-{side}-seed-{seed}"
    with locked(directory):
        if not (home / "ready").exists():
            print(f"making {num_train + num_test} images in {home}", flush=True)
            rng = np.random.default_rng(seed)
            names, lines = list(PATTERNS), []
            for i in range(num_train + num_test):
                name = names[i % len(names)]
                path = f"train/{name}/{i:06}.JPEG" if i < num_train else f"val/{i:06}.JPEG"
                (home / path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture(name, side, rng)).save(home / path, quality=90)
                if i >= num_train:
                    lines.append(f"{path} {i % len(names)}\n")
            (home / "val_list.txt").write_text("".join(lines))
            (home / "ready").touch()
    return imagenet(home)


def imagenet(directory):
    """Return Images for training and for the test: DIR/train as folders or DIR/train_list.txt, DIR/val or DIR/val_list.txt."""
    home = Path(directory)
    listed = (home / "train_list.txt").exists()
    train = Images.listed(home / "train_list.txt") if listed else Images.folder(home / "train")
    if (home / "val_list.txt").exists():
        return train, Images.listed(home / "val_list.txt", classes=train.classes)
    return train, Images.folder(home / "val", train.classes)
