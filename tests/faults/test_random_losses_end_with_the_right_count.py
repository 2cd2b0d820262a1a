"""A few random losses over modes and roles; ``make chaos`` strikes 200 times."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import chaos


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_losses(tmp_path: Path) -> None:
    seed = int(os.environ.get("FLEET_TEST_SEED", "1"))  # the same strikes each time; make chaos draws others
    print(f"seed {seed}: python tests/faults/chaos.py 12 {seed}")
    for number, strike in zip(range(12), chaos.strikes(seed), strict=False):
        print(strike.text())
        chaos.do(strike, tmp_path / str(number))
