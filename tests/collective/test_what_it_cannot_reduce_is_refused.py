"""Complex parameters, one tensor for two...: a ConfigError that names the parameter, on every trainer, and the job goes on."""

from __future__ import annotations

import equal
import pytest
from trainers import Trainers

CASES = {
    "complex": ("wave is complex64", "model.float()"),
    "float64_with_a_codec": ("fp16_allreduce encodes float32", "model.float()"),
    "one_tensor_for_two": ("0.weight", "gradient.clone()"),
    "second_reducer": ("a second reducer", "one model"),
    "wrong_shares": ("trainer 0 has 3 of 8, trainer 1 has 3 of 8 samples", "fleet.distributed_loader"),
}


@pytest.mark.parametrize("case", list(CASES))
def test_refused_by_name(pair: Trainers, case: str) -> None:
    what, fix = CASES[case]
    for words in pair.run("collective.jobs:refusal", case=case):
        assert what in words and fix in words
    equal.reduced_equals_alone(pair.run("collective.jobs:compare", build="two_layers", steps="one_backward"))


def test_frozen_on_one_trainer_only(pair: Trainers) -> None:
    assert "is frozen on this trainer" in pair.run("collective.jobs:refusal", case="frozen_here")[1]


def test_an_error_of_the_scripts_own_in_backward(pair: Trainers) -> None:
    for result in pair.run("collective.jobs:failed_backward_then_good_one"):
        assert "mine" in result["message"]
        equal.bitwise([result["before"], result["after"]])
