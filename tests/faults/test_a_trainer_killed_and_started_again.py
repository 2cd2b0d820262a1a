"""--trainer_restarts: a trainer is killed; alone it goes on at its place, or all go back to the last checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import job
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
