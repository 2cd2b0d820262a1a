"""Parameters that only some steps or some trainers use."""

from __future__ import annotations

from typing import Any

import equal
import numpy as np
import pytest
from trainers import Trainers

CASES = {
    "never used anywhere": [["l", "l"], ["l", "l"], ["l", "l"]],
    "used by one trainer only": [["l", "r"], ["l", "r"], ["r", "l"]],
    "in some steps only": [["l", "l"], ["r", "r"], ["lr", "lr"], ["l", "l"]],
    "in some steps on one trainer": [["lr", "l"], ["l", "l"], ["l", "lr"], ["", "lr"]],
}


@pytest.mark.parametrize("uses", list(CASES.values()), ids=list(CASES))
def test_gradients_are_the_mean_over_all_trainers(either: Trainers, uses: list[list[str]]) -> None:
    results = either.run("collective.jobs:branches", uses=uses, clear="drop")
    for got, expected in zip(zip(*(r["got"] for r in results), strict=True), results[0]["expected"], strict=True):
        equal.bitwise(list(got))
        equal.close(got[0], expected)  # None where no trainer used it


def test_cleared_to_zero_stays_zero(either: Trainers) -> None:
    """clear_grad() leaves zeros, as it does alone."""
    results = either.run("collective.jobs:branches", uses=CASES["in some steps only"], clear="zero")
    for got, expected in zip(results[0]["got"], results[0]["expected"], strict=True):
        equal.close(got, expected)


def test_adamw_does_not_move_what_nobody_used(either: Trainers) -> None:
    results: list[dict[str, Any]] = either.run("collective.jobs:adamw_leaves_unused_alone")
    for before, after in zip(results[0]["before"], results[0]["after"], strict=True):
        assert np.array_equal(before, after)
    equal.bitwise([r["moved"] for r in results])
