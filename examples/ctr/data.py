"""The data of the example, made on first use."""

import json
from pathlib import Path

import numpy as np

from fleet.data import criteo


def load(directory, num_samples, num_buckets, seed=0):
    """Return training arrays, held-out arrays and the AUC that is possible on the held-out ones.

    Arrays: {"ids": int64[n, 26], "dense": float32[n, 13], "label": float32[n]}, mapped from disk.
    Several processes may call this at once: one makes the data, the others wait for it.
    """
    home = Path(directory) / f"{num_samples}-samples-{num_buckets}-buckets-seed-{seed}"
    with criteo.locked(directory):  # not home: generate() and pack() lock what they write
        if not (home / "ready").exists():
            print(f"making {num_samples} samples in {home}", flush=True)
            criteo.generate(home, num_samples, seed)
            for part in ("train", "test"):
                criteo.pack(home / part, home / f"{part}.pack", num_buckets=num_buckets)
            (home / "ready").touch()
    possible = json.loads((home / "_planted.json").read_text())["bayes_auc"]
    return criteo.open_pack(home / "train.pack", num_buckets), criteo.open_pack(home / "test.pack", num_buckets), possible


def auc(scores, labels):
    """Return the area under the ROC curve; equal scores count half."""
    values, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    clicks = np.bincount(group, labels, len(values))
    others = sizes - clicks
    below = np.cumsum(others) - others
    return float((clicks * (below + others / 2)).sum() / (clicks.sum() * others.sum()))
