"""Snapshots that are almost right are refused, or load to what they say: a few of those that `make fuzz-snapshots` tries."""

from __future__ import annotations

import subprocess
import sys

import pytest
from several import ROOT, clean_environ


def run(num_rounds: int, seed: int) -> None:
    command = [sys.executable, str(ROOT / "tests/fuzz/of_snapshots.py"), str(num_rounds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env=clean_environ(SEED=str(seed)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{num_rounds} snapshots of seed {seed}" in done.stdout


def test_some_snapshots_that_are_almost_right() -> None:
    run(60, 1)


@pytest.mark.slow
def test_many_snapshots_that_are_almost_right() -> None:
    run(1000, 2)
