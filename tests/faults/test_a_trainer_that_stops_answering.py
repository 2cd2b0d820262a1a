"""A trainer that hangs (SIGSTOP) for longer than timeout_s: the others name it, the launcher ends the job, nobody is left."""

from __future__ import annotations

import os
import signal
import sys
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
        # A trainer that waits for a stopped server is late itself: whichever limit runs out first names it or the server.
        assert "PeerLost" in head and (victim in head or (victim == "server 0" and "did not come" in head)), run.err
        job.is_over(run)
        job.checkpoints(tmp_path)
    finally:
        job.end(run)
