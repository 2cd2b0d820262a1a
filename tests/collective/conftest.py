"""One pair of trainers for all tests of this room that do not break their job."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from trainers import Trainers


@pytest.fixture(scope="session")
def pair() -> Iterator[Trainers]:
    with Trainers(2) as trainers:
        yield trainers
