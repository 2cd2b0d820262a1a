"""A trainer that hangs (SIGSTOP) for longer than timeout_s: the others name it, the launcher ends the job, nobody is left."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import job
from kill_harness import pid_of


@pytest.mark.parametrize("victim", ["trainer 1", pytest.param("trainer 0", marks=pytest.mark.slow),
                                    pytest.param("server 0", marks=pytest.mark.slow)])  # fmt: skip
def test_it_is_named(tmp_path: Path, victim: str) -> None:
    run = job.start(tmp_path, TIMEOUT_S="2")
    try:
        run.until("at step 6")
        pid = pid_of(run, victim)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        assert run.wait(40) != 0
        head = run.err.split("last lines")[0]
        # A trainer that waits for a stopped server is late itself, but the launcher sees who is stopped.
        assert f"{victim} failed first" in head and "stopped (SIGSTOP" in head and "PeerLost" in run.err, run.err
        assert run.status == 124
        job.is_over(run)
        job.checkpoints(tmp_path)
    finally:
        job.end(run)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_twenty_seconds_are_survived_without_a_restart(tmp_path: Path) -> None:
    """One after the other in one job: a server, the trainer that hosts the control channel, the other trainer."""
    run = job.start(tmp_path, "1000", "60", flags=("--server_restarts", "2", "--trainer_restarts", "2"))
    try:
        for step, victim in ((6, "server 0"), (21, "trainer 1"), (36, "trainer 0")):
            run.until(f"at step {step}\n", 40)
            pid = pid_of(run, victim)
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            time.sleep(20)
            assert run.process.poll() is None, run.err
            os.kill(pid, signal.SIGCONT)
        assert run.wait(60) == 0, run.err
        job.is_over(run)
    finally:
        job.end(run)
    assert "server 0 has not answered for 12 s" in run.log("trainer-0") + run.log("trainer-1")
    assert "started again" not in run.err and run.log("trainer-0").count("script begins") == 1
