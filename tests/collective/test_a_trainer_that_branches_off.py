"""Who skips a backward, comes late, dies or does something else ends the job: each error names the rank and the place."""

from __future__ import annotations

import time

import pytest
from trainers import Trainers

from fleet.errors import PeerLost, RendezvousError

WAITING = "step 2, backward 1, bucket 0 (2.bias)"
# what trainer 1 does -> the error of trainer 0, and words in it
CASES = {
    "backward": (RendezvousError, ["trainer 1 is at step 2, optimizer.step() without a backward", WAITING]),
    "extra backward": (RendezvousError, ["trainer 1 is at step 2, backward 2, bucket 0 (2.bias)", "trainer 0 is at step 3"]),
    "other collective": (RendezvousError, ["trainer 1 is at fleet.all_reduce()", WAITING]),
    "late": (PeerLost, ["trainer 1 did not come; it was last at step 1, backward 1", WAITING]),
    "dead": (PeerLost, ["trainer 1 was lost after step 1, backward 1", WAITING]),
}


@pytest.mark.parametrize("how", list(CASES))
def test_ends_with_its_name(how: str) -> None:
    kind, words = CASES[how]
    with Trainers(2) as trainers:
        start = time.monotonic()
        outcomes = trainers.outcomes("collective.jobs:skip", how=how)
        assert time.monotonic() - start < 25
        assert isinstance(outcomes[0], kind), outcomes[0]
        assert all(word in str(outcomes[0]) for word in words), outcomes[0]
        if how == "dead":
            assert isinstance(outcomes[1], EOFError)
        else:
            assert isinstance(outcomes[1], (RendezvousError, PeerLost)), outcomes[1]
        statuses = trainers.end()
        assert statuses == [0, -9 if how == "dead" else 0]
        assert "C++ Traceback" not in trainers.log(0) + trainers.log(1)


def test_a_trainer_that_dies_inside_all_reduce() -> None:
    with Trainers(2, env={"FLEET_SHARED_MEMORY": "off"}) as trainers:
        outcomes = trainers.outcomes("collective.jobs:die_inside_all_reduce")
        assert isinstance(outcomes[0], PeerLost) and "trainer 1 was lost" in str(outcomes[0])
        assert "bucket 0" in str(outcomes[0]) and "Connection reset" not in str(outcomes[0])
        assert trainers.end() == [0, -9]


def test_steps_without_a_backward_on_all_trainers(pair: Trainers) -> None:
    assert pair.run("collective.jobs:no_step_with_no_backward") == ["fine", "fine"]


@pytest.mark.slow
def test_a_trainer_that_is_late_beyond_gloos_30_s_but_in_time() -> None:
    """Gloo gives up after a fixed 30 s: nobody may be in it meanwhile."""
    with Trainers(2, env={"FLEET_SHARED_MEMORY": "off"}) as trainers:
        first, second = trainers.run("collective.jobs:slow_but_healthy", timeout_s=110, sleep_s=35, wait_s=60)
        assert all((a == b).all() for a, b in zip(first, second, strict=True))
