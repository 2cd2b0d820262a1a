"""--server_restarts: a server is killed, the launcher starts again, and the job ends as if nothing had happened."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import job
import judge
from kill_harness import kill


def test_sync_rolls_back_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    plain = job.start(tmp_path / "plain", "1000", "18", OUT=str(tmp_path / "plain.pdparams"))
    flags = ("--server_restarts", "1")
    struck = job.start(tmp_path / "struck", "1000", "18", flags=flags, OUT=str(tmp_path / "struck.pdparams"))
    try:
        struck.until("at step 11")
        assert kill(struck, "server 1", 0)
        assert plain.wait(60) == 0, plain.err
        assert struck.wait(60) == 0, struck.err
        assert "server 1: ended by SIGKILL; restart 1 of 1: all processes started again" in struck.err
        # Of step 10, or of the one before it, if its files were still being written.
        assert re.search(r"resumed at step (5|10) ", struck.log("trainer-0")), struck.log("trainer-0")
        job.is_over(struck)
    finally:
        job.end(plain)
        job.end(struck)
    expected, found = job.weights(tmp_path / "plain.pdparams"), job.weights(tmp_path / "struck.pdparams")
    assert expected.keys() == found.keys()
    for name in expected:
        assert np.array_equal(expected[name], found[name]), name


def test_async_carries_on_and_says_what_is_lost(tmp_path: Path) -> None:
    run = job.start(tmp_path, "1000", "60", flags=("--server_restarts", "2"), BLOCK='{"consistency": "async"}')
    try:
        run.until("at step 11")
        assert kill(run, "server 1", 0)
        assert run.wait(60) == 0, run.err
        job.is_over(run)
    finally:
        job.end(run)
    assert "server 1: ended by SIGKILL; restart 1 of 2: server 1 alone started again (on_server_loss is carry_on)" in run.err
    said = "server 1 was started again and carries on from step-000000"
    assert run.err.count(said) == 2 and "updates of rows" in run.err, run.err  # when it happens, and at the end
    for trainer in ("trainer-0", "trainer-1"):
        assert run.log(trainer).count("script begins") == 1 and "server 1 is back in another life" in run.log(trainer)
    assert run.log("server-0").count("listens on") == 1 and run.log("trainer-0").count("done") == 1


LOSSES = [({"consistency": "half_async"}, 3), ({"consistency": "async", "dense": "server"}, 1), ({"consistency": "geo"}, 1),
          ({"consistency": "bounded"}, 3), ({"consistency": "sync", "dense": "server"}, 1)]  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "full_every"),
    [pytest.param(*loss, id=loss[0]["consistency"], marks=[pytest.mark.slow] if i else []) for i, loss in enumerate(LOSSES)],
)
def test_dense_parameters_on_servers_and_a_checkpointer(tmp_path: Path, strategy: dict[str, str], full_every: int) -> None:
    """It goes back all together and nothing is missing, or carries on and what is missing was on it, since the checkpoint."""
    run = job.count(tmp_path, strategy, "--server_restarts", "1", FULL_EVERY=str(full_every))
    try:
        run.until("at step 41", 40)
        assert kill(run, "server 1", 0)
        assert run.wait(90) == 0, run.err
        job.is_over(run)
    finally:
        job.end(run)
    carries_on = strategy["consistency"] not in ("sync", "bounded")
    who, why = ("server 1 alone", "carry_on") if carries_on else ("all processes", "rollback")
    assert f"restart 1 of 1: {who} started again (on_server_loss is {why})" in run.err, run.err
    judge.checkpoints_hold_their_steps(run, tmp_path)
    judge.what_is_missing_was_lost(run, tmp_path, strategy, epochs=3)
    if not carries_on:
        assert job.counted(run) == {"steps": 192, "rows": 192.0, "bias": 192.0}


@pytest.mark.slow
def test_after_a_checkpoint_that_the_disk_refused_the_one_before_is_taken(tmp_path: Path) -> None:
    disk = tmp_path / "job/ckpt"
    disk.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    run = job.count(tmp_path / "job", {"consistency": "sync"}, "--server_restarts", "1", CAREFUL="1")
    try:
        run.until("saved at 20\n", 40)
        with open(disk / "filler", "wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                pass
        run.until("could not save")
        assert kill(run, "server 0", 0)
        saved = int(max(disk.glob("step-*")).name[-8:])  # "saved at 20" may have been said before all of it was on the disk
        assert saved >= 10
        (disk / "filler").unlink()
        assert run.wait(60) == 0, run.err
        job.is_over(run)
        assert f"resumed at step {saved} from" in run.log("trainer-0"), run.log("trainer-0")
        assert job.counted(run) == {"steps": 192, "rows": 192.0, "bias": 192.0}
    finally:
        job.end(run)
        subprocess.run(["umount", "-l", str(disk)], check=True)
