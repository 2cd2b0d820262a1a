"""Ctrl-C while the job starts, trains and saves: status 130, over in seconds, nobody left, the last checkpoint whole."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import job
from kill_harness import wait_for

slow = pytest.mark.slow


@pytest.mark.parametrize("phase", [pytest.param("spawn", marks=slow), pytest.param("import", marks=slow),
                                   pytest.param("training", marks=slow), "checkpoint"])  # fmt: skip
def test_it_ends(tmp_path: Path, phase: str) -> None:
    run = job.start(tmp_path)
    try:
        if phase == "spawn":
            assert wait_for(lambda: bool(run.run_id), 20)
        else:
            run.until({"import": "script begins", "training": "at step 6", "checkpoint": "at step 1"}[phase], 40)
        if phase == "checkpoint":
            assert wait_for(lambda: any((tmp_path / "ckpt").glob(".tmp-*")), 20)
        began = time.monotonic()
        os.kill(run.process.pid, signal.SIGINT)
        assert run.wait(30) == 130, run.err
        assert time.monotonic() - began < 10
        assert "failed first" not in run.err, run.err
        assert "SIGINT" in run.err or (phase == "spawn" and not run.err), run.err  # before the first process it has nothing to say
        job.is_over(run)
        job.checkpoints(tmp_path)
    finally:
        job.end(run)
