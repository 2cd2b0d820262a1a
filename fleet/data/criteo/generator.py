"""Files of the raw format with a planted signal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.data.criteo.cache import locked, open_pack, pack
from fleet.data.criteo.planted import Planted, bayes_auc
from fleet.errors import ConfigError

PLANTED = "_planted.json"

_BLOCK = 8192  # samples made at once; part of what the seed means
_TRAINING, _HELD_OUT = 1, 2


def generate(
    out: str | os.PathLike[str], num_samples: int, seed: int = 0, *, held_out: float = 0.1, num_parts: int = 2
) -> dict[str, Any]:
    """Write ``out/train/part-*.txt`` and ``out/test/part-00000.txt``; return what ``out/_planted.json`` says.

    Args:
        num_samples: in all; the same seed gives the same files.
        held_out: the share of them that goes to ``test``.
        num_parts: files of the training part.

    Returns:
        num_train, num_test, seed, click_rate of the test samples, and bayes_auc: the AUC on the test samples that
        nothing can beat but by luck, from their true click probabilities.

    Raises:
        ConfigError: too few samples for the parts, or ``out`` cannot be written.

    Cost: about 2 us a sample.
    """
    num_test = round(num_samples * held_out)
    num_train = num_samples - num_test
    if not 0 < held_out < 1 or num_test < 1 or num_parts < 1 or num_train < num_parts or seed < 0:
        raise ConfigError(
            f"cannot make {num_parts} training parts and a test part of {num_samples} samples with {held_out=} and {seed=}",
            at="fleet.data.criteo.generate",
            fix="ask for more samples, a share between 0 and 1, and a seed of at least 0",
        )
    target = Path(out)
    with locked(target):
        try:
            return _generate(target, num_train, num_test, seed, num_parts)
        except OSError as error:
            fix = "free some space, or name another directory"
            raise ConfigError(f"cannot write the samples: {error.strerror}", at=str(target), fix=fix) from error


def planted_files(directory: str | os.PathLike[str], num_samples: int, seed: int = 0) -> tuple[Path, Path, float]:
    """Return the directories of training and held-out text and the best possible AUC on the latter; made on first use.

    Several processes may call this at once: one makes the data, the others wait for it.

    Raises:
        ConfigError: too few samples, or the directory cannot be written.
    """
    home = Path(directory) / f"{num_samples}-samples-text-seed-{seed}"
    with locked(directory):
        if not (home / PLANTED).exists():
            print(f"making {num_samples} samples in {home}", flush=True)
            generate(home, num_samples, seed)
    return home / "train", home / "test", float(json.loads((home / PLANTED).read_text())["bayes_auc"])


def load_planted(
    directory: str | os.PathLike[str], num_samples: int, num_buckets: int, seed: int = 0
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]], float]:
    """Return training arrays, held-out arrays and the best possible AUC on the held-out ones; made on first use.

    Arrays: ``{"ids": int64[n, 26], "dense": float32[n, 13], "label": float32[n]}``, mapped from disk.
    Several processes may call this at once: one makes the data, the others wait for it.

    Raises:
        ConfigError: too few samples, or the directory cannot be written.
    """
    home = Path(directory) / f"{num_samples}-samples-{num_buckets}-buckets-seed-{seed}"
    with locked(directory):  # not home: generate() and pack() lock what they write
        if not (home / "ready").exists():
            print(f"making {num_samples} samples in {home}", flush=True)
            generate(home, num_samples, seed)
            for part in ("train", "test"):
                pack(home / part, home / f"{part}.pack", num_buckets=num_buckets)
            (home / "ready").touch()
    possible = float(json.loads((home / PLANTED).read_text())["bayes_auc"])
    return open_pack(home / "train.pack", num_buckets), open_pack(home / "test.pack", num_buckets), possible


def _generate(target: Path, num_train: int, num_test: int, seed: int, num_parts: int) -> dict[str, Any]:
    (target / PLANTED).unlink(missing_ok=True)  # while it is missing, the files are not whole
    for name in ("train", "test"):
        (target / name).mkdir(exist_ok=True)
        for old in (target / name).glob("part-*.txt"):
            old.unlink()
    planted = Planted(seed)
    block = 0
    for part in range(num_parts):
        share = (part + 1) * num_train // num_parts - part * num_train // num_parts
        _write(target / "train" / f"part-{part:05d}.txt", planted, _TRAINING, block, share)
        block += -(-share // _BLOCK)
    probability, num_clicks = _write(target / "test" / "part-00000.txt", planted, _HELD_OUT, 0, num_test)
    said = {
        "num_train": num_train,
        "num_test": num_test,
        "seed": seed,
        "click_rate": num_clicks / num_test,
        "bayes_auc": bayes_auc(probability),
    }
    scratch = target / f"{PLANTED}.tmp"
    scratch.write_text(json.dumps(said, indent=1))
    os.replace(scratch, target / PLANTED)
    return said


def _write(path: Path, planted: Planted, part: int, block: int, num_samples: int) -> tuple[npt.NDArray[np.float64], int]:
    """Write one file, from block number ``block`` on; return the probabilities and the number of clicks."""
    probabilities, num_clicks = [], 0
    with open(path, "wb") as file:
        for start in range(0, num_samples, _BLOCK):
            samples = planted.draw(part, block + start // _BLOCK, min(_BLOCK, num_samples - start))
            file.write(samples.text)
            probabilities.append(samples.probability)
            num_clicks += int(samples.label.sum())
    return np.concatenate(probabilities), num_clicks
