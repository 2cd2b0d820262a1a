"""Generated files are of the raw format, the same for a seed, and their best possible AUC is what is printed."""

import hashlib
import json
import os
import subprocess
import sys

import criteo_oracle as oracle
import numpy as np
import pytest

from fleet.data import criteo
from fleet.data.criteo.planted import Planted, bayes_auc
from fleet.errors import ConfigError


def slow_bayes_auc(p):
    """Sum over all pairs: the chance that i is clicked and j is not, times whether i is ranked above j."""
    weight = p[:, None] * (1 - p[None, :])
    np.fill_diagonal(weight, 0)
    won = (p[:, None] > p[None, :]) + (p[:, None] == p[None, :]) / 2
    return (weight * won).sum() / weight.sum()


def test_the_bayes_auc_is_the_sum_over_all_pairs():
    rng = np.random.default_rng(0)
    for p in (rng.random(300), rng.integers(1, 9, 200) / 10, np.array([0.3, 0.3]), np.array([0.9, 0.1])):
        assert bayes_auc(p) == pytest.approx(slow_bayes_auc(p), abs=1e-12)


def test_labels_follow_the_probabilities_and_their_auc_is_near_the_best():
    samples = Planted(4).draw(2, 0, 8192)
    p, clicked = samples.probability, samples.label
    assert clicked.mean() == pytest.approx(0.25, abs=0.02)
    for low in (0.0, 0.2, 0.4, 0.6):
        some = (p >= low) & (p < low + 0.2)
        assert clicked[some].mean() == pytest.approx(p[some].mean(), abs=5 / np.sqrt(some.sum()))
    ranked = (p[clicked][:, None] > p[~clicked][None, :]).mean()
    assert ranked == pytest.approx(bayes_auc(p), abs=0.02)
    assert 0.78 < bayes_auc(p) < 0.85


def test_the_text_is_of_the_raw_format(tmp_path):
    said = criteo.generate(tmp_path, 3000, seed=2, held_out=0.2, num_parts=3)
    assert (said["num_train"], said["num_test"]) == (2400, 600) and json.loads((tmp_path / "_planted.json").read_text()) == said
    parts = sorted((tmp_path / "train").iterdir())
    assert [len(part.read_bytes().splitlines()) for part in parts] == [800, 800, 800]
    text = b"".join(part.read_bytes() for part in parts)
    ids, dense, labels, bad = oracle.parse(text, 10**9)
    assert not bad and len(labels) == 2400
    fields = np.array([line.split("\t") for line in oracle.lines_of(text)])
    assert (fields[:, 1:14] == "").any() and (fields[:, 14:] == "").any(), "blanks among integers and strings"
    assert any(field.startswith("-") for field in fields[:, 2])
    popular = [np.unique(fields[:, 14 + slot], return_counts=True)[1].max() / 2400 for slot in range(26)]
    assert 0.05 < min(popular) and max(popular) < 0.6, "a few ids take much of each slot, none all of it"
    assert len(set(fields[:, 39])) > 500, "the last slot has many rare ids"
    batch = next(criteo.read(tmp_path / "train", batch_size=2400, num_buckets=10**9))
    assert batch["ids"].tolist() == ids


def digest(directory):
    files = sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(directory): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_seed_means_the_same_files_in_every_process(tmp_path):
    for name, hash_seed in (("a", "0"), ("b", "4321")):
        command = [sys.executable, "-m", "fleet.data.criteo", "generate", tmp_path / name, "--samples", "12000", "--seed", "3"]
        environ = {**os.environ, "PYTHONHASHSEED": hash_seed}
        printed = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=60).stdout
        criteo.pack(tmp_path / name / "train", tmp_path / f"{name}.pack", num_buckets=1009)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    a, b = criteo.open_pack(tmp_path / "a.pack"), criteo.open_pack(tmp_path / "b.pack")
    np.testing.assert_array_equal(a["ids"], b["ids"])
    best = json.loads((tmp_path / "a" / "_planted.json").read_text())["bayes_auc"]
    assert f"Bayes AUC {best:.4f}" in printed
    criteo.generate(tmp_path / "c", 12000, seed=4)
    assert digest(tmp_path / "c") != digest(tmp_path / "a")


def test_no_part_repeats_another(tmp_path):
    criteo.generate(tmp_path, 20000, held_out=0.4, num_parts=2)
    lines = [line for path in sorted(tmp_path.glob("t*/part-*")) for line in path.read_bytes().splitlines()]
    assert len(lines) == len(set(lines)) == 20000


def test_generating_again_leaves_no_part_of_the_larger_one_before(tmp_path):
    criteo.generate(tmp_path, 1000, num_parts=4)
    criteo.generate(tmp_path, 500, num_parts=1)
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["part-00000.txt"]


@pytest.mark.parametrize("wrong", [{"num_samples": 1}, {"held_out": 0.0}, {"held_out": 1.0}, {"num_parts": 0}, {"seed": -1}])
def test_wrong_numbers_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="cannot make"):
        criteo.generate(tmp_path, **{"num_samples": 100, **wrong})
