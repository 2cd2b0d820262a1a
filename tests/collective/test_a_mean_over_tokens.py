"""fleet.mean_loss: losses divided by tokens of all trainers, on 1, 2 and 4 of them what one process in NumPy computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from collective.equal import close
from collective.loss_jobs import BATCH, SENTENCES, data
from trainers import Trainers


def definition(merge: int = 1) -> list[Any]:
    """Return the parameters after an epoch of SGD at 0.5 on (sum of the batch's losses) / (its tokens)."""
    shapes = [(3, 4), (4,), (4, 1), (1,)]
    a, b, c, d = (np.random.default_rng(k).normal(size=s).astype(np.float32) for k, s in enumerate(shapes))
    words, mask = data()
    kept: list[list[Any]] = []
    for begin in range(0, SENTENCES, BATCH):
        x, there = words[begin : begin + BATCH], mask[begin : begin + BATCH]
        t = np.tanh(x @ a + b)
        guess = (t @ c + d)[..., 0]
        d_guess = (2 * guess * there / there.sum())[..., None]
        d_hidden = d_guess * c[:, 0] * (1 - t * t)
        kept.append([np.einsum("nlf,nlh->fh", x, d_hidden), d_hidden.sum((0, 1)),
                     np.einsum("nlh,nlo->ho", t, d_guess), d_guess.sum((0, 1))])  # fmt: skip
        if len(kept) == merge or begin + BATCH >= SENTENCES:
            a, b, c, d = (p - 0.5 * np.mean(g, axis=0) for p, g in zip((a, b, c, d), zip(*kept, strict=True), strict=True))
            kept = []
    return [a, b, c, d]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_it_is_the_whole_batchs(world_size: int, request: pytest.FixtureRequest) -> None:
    if world_size == 2:
        results = request.getfixturevalue("pair").run("collective.loss_jobs:train", strategy={})
    else:
        with Trainers(world_size) as trainers:
            results = trainers.run("collective.loss_jobs:train", strategy={})
    for found in results:
        close(found, definition(), 1e-5)


def test_with_gradient_merge_it_is_the_mean_of_the_micro_steps(pair: Trainers) -> None:
    for found in pair.run("collective.loss_jobs:train", strategy={"gradient_merge": {"k_steps": 3}}):
        close(found, definition(merge=3), 1e-5)


def test_local_steps_divide_by_their_own_count(pair: Trainers) -> None:
    """Until the first average each trainer's steps are those of its own part alone."""
    local = {"localsgd": {"k_steps": 100, "begin_step": 1}}
    first, second = pair.run("collective.loss_jobs:gradients", strategy=local)
    for found in (first, second):
        close(found["got"], found["own"], 1e-5)


@pytest.mark.parametrize("count", [-1.0, float("nan"), float("inf")])
def test_a_count_that_cannot_be_is_refused_everywhere(pair: Trainers, count: float) -> None:
    for words in pair.run("collective.loss_jobs:refused", count=count):
        assert f"trainer 1 gives the count {count:g}" in words


def test_what_is_no_sum_is_refused(pair: Trainers) -> None:
    for words in pair.run("collective.loss_jobs:refused_total"):
        assert "[2] values" in words and "losses.sum()" in words
