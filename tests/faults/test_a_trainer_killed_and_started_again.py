"""--trainer_restarts: a trainer is killed; alone it goes on at its place, or all go back to the last checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import job
import judge
from kill_harness import kill

FLAGS = ("--trainer_restarts", "1")


@pytest.mark.slow
def test_with_all_reduce_all_go_back_and_end_with_the_same_bits(tmp_path: Path) -> None:
    plain = job.start(tmp_path / "plain", "1000", "18", OUT=str(tmp_path / "plain.pdparams"))
    struck = job.start(tmp_path / "struck", "1000", "18", flags=FLAGS, OUT=str(tmp_path / "struck.pdparams"))
    try:
        struck.until("at step 11")
        assert kill(struck, "trainer 1", 0)
        assert plain.wait(60) == 0, plain.err
        assert struck.wait(60) == 0, struck.err
        assert "all processes started again (the trainers hold state that only a checkpoint has)" in struck.err
        job.is_over(struck)
    finally:
        job.end(plain)
        job.end(struck)
    expected, found = job.weights(tmp_path / "plain.pdparams"), job.weights(tmp_path / "struck.pdparams")
    assert expected.keys() == found.keys()
    for name in expected:
        assert np.array_equal(expected[name], found[name]), name


MODES = [*({"consistency": name} for name in ("bounded", "half_async", "geo")), {"consistency": "async", "dense": "server"}]


ONE_FAST = [pytest.param(b, id=b["consistency"], marks=[pytest.mark.slow] if i else []) for i, b in enumerate(MODES)]


@pytest.mark.parametrize("strategy", ONE_FAST)
def test_alone_where_the_servers_hold_its_past(tmp_path: Path, strategy: dict[str, object]) -> None:
    """Its pushes count once, to the sample: none is missing but those in hand at its death, and no row was moved twice."""
    run = job.count(tmp_path, strategy, *FLAGS)
    try:
        run.until("at step 41")
        assert kill(run, "trainer 1", 0)
        assert run.wait(90) == 0, run.err
        job.is_over(run)
    finally:
        job.end(run)
    assert "restart 1 of 1: trainer 1 alone started again (its past is on the servers)" in run.err, run.err
    assert "rejoined at step" in run.log("trainer-1") and run.log("trainer-0").count("at step 41\n") == 1
    judge.checkpoints_hold_their_steps(run, tmp_path)
    judge.what_is_missing_was_lost(run, tmp_path, strategy, epochs=3)
