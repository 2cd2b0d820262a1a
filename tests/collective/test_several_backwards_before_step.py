"""A second backward adds to the first; no_sync keeps gradients at home until the next backward outside."""

from __future__ import annotations

import equal
import pytest
from trainers import Trainers

CASES = ["two_backwards", "two_losses_one_graph", "several_under_no_sync", "synced_then_no_sync_then_synced"]


@pytest.mark.parametrize("steps", CASES)
def test_gradients_add_up(either: Trainers, steps: str) -> None:
    equal.reduced_equals_alone(either.run("collective.jobs:compare", build="two_layers", steps=steps))


def test_steps_without_clear_grad(either: Trainers) -> None:
    equal.reduced_equals_alone(either.run("collective.jobs:without_clear"))


def test_no_sync_keeps_each_batchs_own_weight(either: Trainers) -> None:
    results = either.run("collective.jobs:no_sync_with_uneven_parts")
    equal.reduced_equals_alone(results)


def test_step_with_gradients_that_were_never_sent(either: Trainers) -> None:
    for words in either.run("collective.jobs:refusal", case="unsent"):
        assert "never sent" in words and "no_sync" in words
