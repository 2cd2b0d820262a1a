"""Broken off in the middle of an epoch, a group and an interval, and taken up again: the same bits as a run that never stopped."""

from __future__ import annotations

import numpy as np
import pytest
from collective.test_every_strategy_is_its_definition import settings
from trainers import Trainers

from fleet.collective.strategies.codec import own_or_shared
from fleet.collective.strategies.hooks import Trainer
from fleet.strategy import kinds

CASES = [settings(name) for name in kinds() if name not in ("buckets", "lars", "lamb", "verify", "deterministic")]
CASES += [settings("gradient_merge", "localsgd", "ema"), settings("gradient_merge", "dgc", "clip")]


@pytest.mark.parametrize("strategy", CASES, ids=lambda s: "+".join(s))
def test_the_same_bits(pair: Trainers, strategy: dict) -> None:
    for whole, rest in pair.run("collective.strategy_jobs:resumed", strategy=strategy, stop_at=4):
        for name in whole:
            assert np.array_equal(whole[name], rest[name]), name


def test_what_codecs_hold_back_is_shared_by_another_number_of_trainers() -> None:
    states = [{"lost/a": np.full(3, r + 1.0, np.float32), "other": 1} for r in range(3)]
    for rank in range(2):
        shared = own_or_shared(states, Trainer(rank, 2, wire=None), "lost/")
        assert shared["a"].tolist() == [3.0, 3.0, 3.0]  # (1 + 2 + 3) / 2: the sum over trainers is what it was
    assert own_or_shared(states, Trainer(1, 3, wire=None), "lost/")["a"].tolist() == [2.0, 2.0, 2.0]
