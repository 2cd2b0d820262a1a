"""fleet.log: trainer 0 shows means over trainers; it never waits, and a console that is gone does not end the job."""

from __future__ import annotations

from pathlib import Path

import pytest
from several import alone, trainers


def test_the_mean_of_all_trainers(tmp_path: Path) -> None:
    done = trainers(tmp_path, """
        for step in range(3):
            fleet.log(loss=step + fleet.rank(), rate=0.5)
        fleet.barrier()
    """, world_size=3, FLEET_PROGRESS="0")  # fmt: skip
    assert [d.status for d in done] == [0, 0, 0], done
    assert done[1].out == done[2].out == ""
    assert done[0].out.splitlines()[-1].startswith("step 3  loss 3  rate 0.5")


def test_a_trainer_that_logs_alone_waits_for_nobody(tmp_path: Path) -> None:
    done = trainers(tmp_path, """
        if fleet.rank() == 1:
            for step in range(2000):
                fleet.log(loss=step)
        fleet.barrier()
    """)  # fmt: skip
    assert [d.status for d in done] == [0, 0], done
    assert done[0].out == ""  # no step is complete, so nothing is claimed about it


def test_a_console_that_is_gone(tmp_path: Path) -> None:
    done = trainers(tmp_path, """
        import os, sys
        if fleet.rank() == 0:
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        for step in range(50):
            fleet.log(loss=step)
            fleet.barrier()
        if fleet.rank() == 0:
            fleet.shutdown()
            os._exit(0)  # the interpreter's own last flush fails, as it does in any script
    """)  # fmt: skip
    assert [d.status for d in done] == [0, 0], done


@pytest.mark.parametrize("value", ["numpy.zeros(2)", "'low'", "None"])
def test_what_is_not_one_number(value: str) -> None:
    done = alone(f"import fleet, numpy\nfleet.init()\nfleet.log(loss={value})")
    assert done.status == 1 and "loss is not one number" in done.err and "fix:" in done.err


def test_numbers_of_every_kind() -> None:
    call = "fleet.log(a=1, b=2.5, c=numpy.float32(3), d=numpy.ones((1, 1)), e=float('nan'))"
    done = alone(f"import fleet, numpy\nfleet.init()\n{call}",
                 FLEET_PROGRESS="0")  # fmt: skip
    assert done.status == 0 and "a 1  b 2.5  c 3  d 1  e nan" in done.out, done.err
