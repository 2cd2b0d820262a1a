"""Memory that is shared out, random numbers that come again, trainers that part, and settings that a model cannot follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from trainers import Trainers

from fleet.collective.strategies.adaptive_localsgd import AdaptiveLocalSgd


@pytest.fixture(scope="module")
def four() -> Iterator[Trainers]:
    with Trainers(4) as trainers:
        yield trainers


def test_the_optimizers_state_is_shared_out(four: Trainers) -> None:
    whole = four.run("collective.strategy_jobs:adam_state", sharded=False)
    parts = four.run("collective.strategy_jobs:adam_state", sharded=True)
    assert all(held <= 0.27 * whole[0][0] for held, _ in parts)
    for _, values in [*whole, *parts]:
        assert all(np.array_equal(mine, first) for mine, first in zip(values, whole[0][1], strict=True))


def test_recomputed_dropout_drops_the_same(pair: Trainers) -> None:
    kept = pair.run("collective.strategy_jobs:with_dropout", on=False)
    again = pair.run("collective.strategy_jobs:with_dropout", on=True)
    for (runs, values), (runs_again, values_again) in zip(kept, again, strict=True):
        assert (runs, runs_again) == (3, 6)
        assert all(np.array_equal(a, b) for a, b in zip(values, values_again, strict=True))


def test_a_parameter_that_differs_is_named(pair: Trainers) -> None:
    for (words,) in pair.run("collective.strategy_jobs:parted"):
        assert "after step 2 3.weight is not the same on all trainers: trainer" in words


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"lamb": True}, "", "paddle.optimizer.Adam"),
    ({"lars": True}, "adam", "paddle.optimizer.Momentum"),
    ({"lars": True}, "decay", "weight decay"),
    ({"lars": {"exclude_from_weight_decay": ["biass"]}}, "", "'biass'"),
    ({"dgc": True}, "adam", "paddle.optimizer.Momentum"),
    ({"onebit": True}, "", "paddle.optimizer.Adam"),
    ({"clip": True}, "clips", "ClipGradByNorm"),
    ({"powersgd": {"rank": 7}}, "", "powersgd.rank 7 makes no matrix"),
    ({"sharding": {"degree": 4}}, "", "asks for 4 trainers, and the job has 2"),
    ({"hybrid_configs": {"dp_degree": 4}}, "", "asks for dp_degree 4, and the job has 2"),
    ({"recompute": {"layers": ["33"]}}, "", "no layer '33'"),
]


@pytest.mark.parametrize(("strategy", "kind", "words"), REFUSED)
def test_refused_with_the_reason(pair: Trainers, strategy: dict[str, Any], kind: str, words: str) -> None:
    for found in pair.run("collective.strategy_jobs:refused_at_join", strategy=strategy, kind=kind):
        assert words in found and "fix: " in found


def test_steps_between_averages_follow_the_loss_and_the_rate() -> None:
    strategy = AdaptiveLocalSgd(init_k_steps=8)
    strategy._first_loss, strategy._first_rate = 2.0, 0.1
    assert [strategy._chosen(loss, 0.1) for loss in (2.0, 0.5, 0.0, -1.0, 1e9)] == [3, 2, 1, 1, 16]
    assert strategy._chosen(2.0, 0.01) == 9
    assert [strategy._chosen(loss, 0.1) for loss in (float("nan"), float("inf"))] == [8, 8]
    strategy._first_loss = -2.0
    assert strategy._chosen(1.0, 0.1) == 8
