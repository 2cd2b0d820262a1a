"""--server_restarts: a server is killed, the launcher starts again, and the job ends as if nothing had happened."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import job
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
        assert "resumed at step 1" in struck.log("trainer-0"), struck.log("trainer-0")
        job.is_over(struck)
    finally:
        job.end(plain)
        job.end(struck)
    expected, found = job.weights(tmp_path / "plain.pdparams"), job.weights(tmp_path / "struck.pdparams")
    assert expected.keys() == found.keys()
    for name in expected:
        assert np.array_equal(expected[name], found[name]), name
