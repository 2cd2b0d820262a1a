"""Different models are an error on every trainer, which names the parameter; equal ones start from trainer 0's values."""

from __future__ import annotations

import equal
import pytest
from trainers import Trainers

CASES = {
    "shape": ("b.weight float32[4] on trainer 0", "b.weight float32[5] on trainer 1"),
    "name": ("b.weight float32[4] on trainer 0", "c.weight float32[4] on trainer 1"),
    "shorter": ("b.weight float32[4] on trainer 0", "no such parameter on trainer 1"),
    "dtype": ("b.weight float32[4] on trainer 0", "b.weight float64[4] on trainer 1"),
    "frozen": ("b.weight float32[4] on trainer 0", "b.weight float32[4] frozen on trainer 1"),
}


@pytest.mark.parametrize("kind", list(CASES))
def test_the_first_difference_is_named(pair: Trainers, kind: str) -> None:
    for words in pair.run("collective.jobs:models", kind=kind):
        assert all(part in words for part in ("parameter 1 is", *CASES[kind]))


def test_equal_models_pass(pair: Trainers) -> None:
    assert pair.run("collective.jobs:models", kind="same") == ["agreed", "agreed"]


def test_parameters_and_buffers_come_from_trainer_0(pair: Trainers) -> None:
    """BatchNorm's running values, frozen weights, int64 and bool buffers too; in place, in few messages."""
    first, second = pair.run("collective.jobs:state_from_trainer_0", message_bytes=1 << 20)
    equal.bitwise([first["state"], second["state"]])
    assert first["in_place"] and second["in_place"]
    assert [v.tolist() for v in second["state"][-2:]] == [[True, False], [5]]
    small = pair.run("collective.jobs:state_from_trainer_0", message_bytes=8)
    equal.bitwise([first["state"], small[0]["state"], small[1]["state"]])


def test_batch_norm_follows_each_trainers_own_batches(pair: Trainers) -> None:
    """As in Paddle's own data parallelism: weights stay equal, running values differ; trainer 0's are saved."""
    first, second = pair.run("collective.jobs:batch_norm")
    equal.bitwise([first["weights"], second["weights"]])
    assert not (first["mean"] == second["mean"]).all()
    equal.close([first["mean"]], [first["mean_alone"]])
