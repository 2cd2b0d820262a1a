"""Sizes, order, and what waits for the end of backward: arithmetic, no process."""

from __future__ import annotations

import pytest
from trainers import Trainers

from fleet.collective.plan import make_buckets


def test_first_bucket_is_small() -> None:
    plan = make_buckets([3, 2, 1, 0], [], [250_000] * 4, {"first_mb": 1.0, "mb": 2.0})
    assert [b.members for b in plan] == [(3,), (2, 1), (0,)]
    assert [b.num_bytes for b in plan] == [1_000_000, 2_000_000, 1_000_000]
    assert plan[1].starts == (0, 250_000, 500_000)


def test_a_parameter_larger_than_a_bucket() -> None:
    plan = make_buckets([0, 1], [], [10_000_000, 10], {"first_mb": 1.0, "mb": 2.0})
    assert [b.members for b in plan] == [(0,), (1,)]


def test_repeated_gradients_go_last_and_wait() -> None:
    plan = make_buckets([2, 1, 0], [1], [4, 4, 4], None)
    assert [(b.members, b.waits_for_end) for b in plan] == [((2, 0), False), ((1,), True)]


@pytest.mark.parametrize("order", [[], [0]])
def test_few_parameters(order: list[int]) -> None:
    plan = make_buckets(order, [], [5] * len(order), None)
    assert [b.members for b in plan] == [tuple(order)] * len(order)


def test_every_trainer_sends_the_same_buckets(pair: Trainers) -> None:
    """In the order of trainer 0's first backward: last layer first."""
    first, second = pair.run("collective.jobs:compare", build="two_layers", steps="one_backward")
    assert first["plan"] == second["plan"]
    assert [name for bucket in first["plan"] for name in bucket] == ["2.bias", "2.weight", "0.bias", "0.weight"]
    assert len(first["plan"]) > 1
