"""kill -9 of the launcher, a trainer or a server: the cause is named, nobody survives, the last checkpoint is whole."""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import job
from kill_harness import Run, kill, wait_for


def check(run: Run, directory: Path, victim: str) -> None:
    run.wait(20)
    job.is_over(run)
    if victim == "launcher":
        assert run.status == 137
    else:
        assert run.status == 137, run.err
        assert f"{victim} failed first" in run.err and "ended by SIGKILL" in run.err, run.err
    job.checkpoints(directory)


def test_a_server_while_training_and_the_job_resumes(tmp_path: Path) -> None:
    run = job.start(tmp_path)
    try:
        run.until("at step 11")
        began = time.monotonic()
        assert kill(run, "server 1", 0)
        check(run, tmp_path, "server 1")
        assert time.monotonic() - began < 10
    finally:
        job.end(run)
    newest = int(job.checkpoints(tmp_path)[-1].name[-8:])
    assert newest >= 5  # step 10's files may still have been on their way to the disk
    (tmp_path / "again").mkdir()
    (tmp_path / "ckpt").rename(tmp_path / "again/ckpt")
    again = job.start(tmp_path / "again", "1000", str(newest + 2), servers=1)
    try:
        assert again.wait(30) == 0, again.err
        assert f"resumed at step {newest} from" in again.log("trainer-0") and "at step 1\n" not in again.log("trainer-0")
    finally:
        job.end(again)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_random_kills(tmp_path: Path) -> None:
    seed = int(os.environ.get("FLEET_TEST_SEED", "1"))  # the same kills each time
    print(f"seed {seed}: repeat with FLEET_TEST_SEED={seed}")
    draw = random.Random(seed)
    moments: list[str] = []
    for attempt in range(50):
        directory = tmp_path / str(attempt)
        victim = ("launcher", "trainer 0", "trainer 1", "server 0", "server 1")[attempt % 5]
        phase, delay_s = draw.choice([("start", draw.uniform(0, 2.0)), ("training", draw.uniform(0, 0.4)), ("checkpoint", 0.0)])
        moments.append(f"{victim} in {phase} after {delay_s:.3f} s (kill {attempt})")
        run = job.start(directory)
        try:
            if phase != "start":
                run.until("at step 6", 40)
            if phase == "checkpoint":
                delay_s = draw.uniform(0, 0.01)
                assert wait_for(lambda d=directory: any((d / "ckpt").glob(".tmp-*")), 10)  # type: ignore[misc]
            if not run.run_id:
                wait_for(lambda r=run: bool(r.run_id), 10)  # type: ignore[misc]
            assert kill(run, victim, delay_s), moments[-1]
            check(run, directory, victim)
        except BaseException:
            print(f"seed {seed}: {moments[-1]}")
            raise
        finally:
            job.end(run)
    print("\n".join(moments))
