"""fleet.profile with a trainer that dies, never calls it, or asks for nonsense: no hang, and the one is named. No Paddle needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from several import alone, trainers

STEPS = """
    import os, signal, time
    runtime = fleet.runtime.current("test")
    def step():
        runtime.steps += 1
        for follow in runtime.after_step:
            follow()
"""


def test_a_trainer_that_was_killed(tmp_path: Path) -> None:
    done = trainers(tmp_path, f"""{STEPS}
    fleet.profile(5, after=1, path={str(tmp_path / "trace.json")!r})
    for number in range(4):
        if fleet.rank() == 1 and number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        step()
    if fleet.rank() == 0:
        time.sleep(0.3)
    """, world_size=3)  # fmt: skip
    assert [d.status for d in done] == [0, -9, 0], done
    assert "profile of steps 2 to 4; nothing came from trainer 1" in done[0].out
    pids = {e["pid"] for e in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert pids == {0, 2}


def test_trainer_0_ends_first(tmp_path: Path) -> None:
    """It waits for the others' recordings, as they are there and come soon."""
    done = trainers(tmp_path, f"""{STEPS}
    fleet.profile(2, after=0, path={str(tmp_path / "trace.json")!r})
    step()
    if fleet.rank() == 1:
        time.sleep(0.5)
    step()
    """)  # fmt: skip
    assert [d.status for d in done] == [0, 0], done
    assert "profile of steps 1 to 2\n" in done[0].out and "trainer 1" in done[0].out


def test_one_trainer_does_not_call_it(tmp_path: Path) -> None:
    done = trainers(tmp_path, """
        if fleet.rank() == 0:
            fleet.profile(2)
        fleet.barrier()
    """)  # fmt: skip
    assert [d.status for d in done] == [1, 1]
    assert "RendezvousError" in done[0].err
    assert "trainer 0 is at fleet.profile(), call 1; trainer 1 is at fleet.barrier()" in done[0].err


def test_a_second_one_while_the_first_is_under_way() -> None:
    done = alone("import fleet\nfleet.init()\nfleet.profile(2)\nfleet.profile(2)")
    assert done.status == 1 and "a profile is under way" in done.err and "fix:" in done.err


def test_nobody_took_a_step() -> None:
    done = alone("import fleet\nfleet.init()\nfleet.profile(2, after=0)")
    assert done.status == 0 and "no step was recorded" in done.out + done.err


@pytest.mark.parametrize("call", ["steps=0", "steps=True", "steps=2.5", "steps=100_000", "after=-1"])
def test_numbers_out_of_range(call: str) -> None:
    done = alone(f"import fleet\nfleet.init()\nfleet.profile({call})")
    assert done.status == 1 and "must be an int from" in done.err and call.split("=")[0] in done.err
