"""Tied weights, frozen ones, transposed ones, a call past forward, nested backwards: each against the plain mean."""

from __future__ import annotations

import equal
import pytest
from trainers import Trainers

CASES = {
    "tied weights": ("tied", "one_backward"),
    "tied weights, two backwards": ("tied", "two_backwards"),
    "frozen parameter": ("half_frozen", "several_under_no_sync"),
    "gradient with strides": ("transposed", "two_backwards"),
    "a call that bypasses forward": ("two_layers", "past_forward"),
    "paddle.autograd.backward": ("two_layers", "by_autograd_backward"),
    "paddle.grad inside": ("two_layers", "with_gradient_penalty"),
    "the user's hooks and no_grad": ("two_layers", "with_hooks_of_the_user"),
    "PyLayer with a backward inside": ("two_layers", "with_pylayer"),
    "recompute, one layer in two segments": ("two_layers", "with_recompute"),
}


@pytest.mark.parametrize(("build", "steps"), list(CASES.values()), ids=list(CASES))
def test_reduced_gradient(pair: Trainers, build: str, steps: str) -> None:
    equal.reduced_equals_alone(pair.run("collective.jobs:compare", build=build, steps=steps))


def test_parameter_unfrozen_and_frozen_later(pair: Trainers) -> None:
    results = pair.run("collective.jobs:unfrozen_later")
    for k in range(4):
        equal.reduced_equals_alone([{"got": r["got"][k], "expected": r["expected"][k]} for r in results])


def test_the_operators_of_a_gpu(pair: Trainers) -> None:
    equal.reduced_equals_alone(pair.run("collective.jobs:on_device_operators"))


def test_gradients_never_lie_in_a_bucket(pair: Trainers) -> None:
    for result in pair.run("collective.jobs:memory_is_its_own"):
        equal.bitwise([result["kept"], result["copies"]])


def test_another_model_trained_by_one_trainer(pair: Trainers) -> None:
    equal.bitwise([r["got"] for r in pair.run("collective.jobs:other_models_do_not_matter")])


def test_recompute_can_come_first_in_one_job_and_later_in_another(pair: Trainers) -> None:
    for words in pair.run("collective.jobs:recompute_only_later"):
        assert words.startswith("right") or "second part" in words
