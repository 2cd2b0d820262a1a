"""Metrics equal the plain definitions over all samples of all trainers, however they are shared out, an empty part included."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from several import trainers

import fleet
from fleet import metrics
from fleet.errors import ConfigError


@pytest.fixture(scope="module", autouse=True)
def _alone() -> Iterator[None]:
    fleet.init()
    yield
    fleet.shutdown()


def auc_of_pairs(scores: list[float], labels: list[int]) -> float:
    """The definition: how often a positive scores above a negative; a tie counts half. Every pair is looked at."""
    both = list(zip(scores, labels, strict=True))
    pairs = list(itertools.product([s for s, y in both if y], [s for s, y in both if not y]))
    return sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs)


def sample(seed: int, n: int = 300) -> tuple[list[float], list[int]]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, n)
    scores = np.round(np.clip(draw.normal(0.4 + 0.2 * labels, 0.2), 0, 1), 2)  # two digits: many ties
    return scores.tolist(), labels.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_all_pairs(seed: int) -> None:
    scores, labels = sample(seed)
    assert len(set(scores)) < len(scores)
    assert metrics.auc(scores, labels) == pytest.approx(auc_of_pairs(scores, labels), abs=1e-12)


def test_auc_of_special_cases() -> None:
    assert metrics.auc([0.1, 0.9], [0, 1]) == 1.0
    assert metrics.auc([0.9, 0.1], [0, 1]) == 0.0
    assert metrics.auc([0.5, 0.5, 0.5], [0, 1, 1]) == 0.5
    assert metrics.auc([1.0, 0.0], [1, 0]) == 1.0
    assert np.isnan(metrics.auc([0.1, 0.2], [1, 1])) and np.isnan(metrics.auc([], []))


@pytest.mark.parametrize("seed", range(3))
def test_paddles_forms_of_sums_and_histograms(seed: int) -> None:
    scores, labels = sample(seed)
    s, y = np.array(scores), np.array(labels)
    counts = [np.bincount((s[y == label] * 100).round().astype(int), minlength=101).reshape(1, -1) for label in (1, 0)]
    assert metrics.auc(stat_pos=counts[0], stat_neg=counts[1]) == pytest.approx(auc_of_pairs(scores, labels), abs=1e-12)
    errors = s - y
    assert metrics.mae(abserr=np.abs(errors).sum(), total_ins_num=len(s)) == pytest.approx(metrics.mae(s, y))
    assert metrics.mse(sqrerr=np.array([(errors**2).sum()]), total_ins_num=len(s)) == pytest.approx(metrics.mse(s, y))
    assert metrics.rmse(sqrerr=(errors**2).sum(), total_ins_num=len(s)) == pytest.approx(np.sqrt((errors**2).mean()))
    assert metrics.acc(np.array([30.0]), np.array([40.0])) == metrics.acc(30, 40) == 0.75
    assert metrics.sum(np.array([[1, 2]])).tolist() == metrics.max(np.array([[1, 2]])).tolist() == [[1, 2]]


@pytest.mark.parametrize(("call", "words"), [
    (lambda: metrics.auc([0.1]), "two arrays of one kind"),
    (lambda: metrics.auc([0.1], [1], stat_pos=[1], stat_neg=[1]), "two arrays of one kind"),
    (lambda: metrics.auc([3, 4], [5, 6]), "auc\\(stat_pos=, stat_neg=\\)"),
    (lambda: metrics.auc(stat_pos=[1, 2], stat_neg=[1]), "2 buckets of positive samples, 1 of negative"),
    (lambda: metrics.mae(abserr=3.0), "neither two arrays nor a sum and its count"),
    (lambda: metrics.mse([1.0], sqrerr=3.0, total_ins_num=3), "neither two arrays nor a sum and its count"),
    (lambda: metrics.rmse(sqrerr=3.0, total_ins_num=0), "no trainer gave a sample"),
])  # fmt: skip
def test_paddles_forms_mixed_up(call: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        call()


def test_auc_of_logits() -> None:
    scores, labels = sample(9)
    logits = [(s - 0.5) * 20 for s in scores]
    assert metrics.auc(logits, labels) == pytest.approx(auc_of_pairs(scores, labels), abs=1e-4)
    assert metrics.auc([-1000.0, 1000.0], [0, 1]) == 1.0


def test_the_others_equal_their_definitions() -> None:
    p, t = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 1.0])
    assert metrics.mae(p, t) == pytest.approx(3.5 / 3) and metrics.rmse(p, t) == pytest.approx(np.sqrt(9.25 / 3))
    assert metrics.mean([1.0, 2.0, 6.0]) == 3.0 and metrics.mean([1.0, 3.0], weights=[3, 1]) == 1.5
    assert metrics.accuracy([True, False, True, True]) == 0.75 and metrics.accuracy(3, 4) == 0.75


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.auc([0.1], [0, 1]),
        lambda: metrics.auc([float("nan"), 0.2], [0, 1]),
        lambda: metrics.auc([0.1, 0.2], [0, 2]),
        lambda: metrics.auc([0.1, 0.2], [0, 0.5]),
        lambda: metrics.mean([]),
        lambda: metrics.mean([1.0], weights=[1, 2]),
        lambda: metrics.rmse([1.0], [1.0, 2.0]),
        lambda: metrics.accuracy(0, 0),
    ],
)
def test_what_has_no_answer(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.at.startswith("metrics.")


SHARED = """
import json, sys
from fleet import metrics
scores, labels = json.loads({data!r})
cuts = {cuts}
a, b = cuts[fleet.rank()], cuts[fleet.rank() + 1]
s, y = scores[a:b], labels[a:b]
right = [(x > 0.5) == bool(z) for x, z in zip(s, y)]
far = [3 * x - 1 for x in s]  # outside 0..1 on one trainer at least
found = [metrics.auc(s, y), metrics.mean(s), metrics.mae(s, y), metrics.rmse(s, y), metrics.accuracy(right), metrics.auc(far, y)]
print(json.dumps(found))
"""


@pytest.mark.parametrize("cuts", [[0, 100, 250, 300], [0, 0, 299, 300]])
def test_three_trainers_equal_one(tmp_path: Path, cuts: list[int]) -> None:
    scores, labels = sample(3)
    done = trainers(tmp_path, SHARED.format(data=json.dumps([scores, labels]), cuts=cuts), world_size=3)
    assert [d.status for d in done] == [0, 0, 0], done
    right = [(s > 0.5) == bool(y) for s, y in zip(scores, labels, strict=True)]
    whole = [metrics.auc(scores, labels), metrics.mean(scores), metrics.mae(scores, labels), metrics.rmse(scores, labels),
             metrics.accuracy(right), metrics.auc([3 * s - 1 for s in scores], labels)]  # fmt: skip
    for one in done:
        assert json.loads(one.out) == pytest.approx(whole, abs=1e-9)
