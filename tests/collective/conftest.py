"""One pair of trainers for all tests of this room that do not break their job."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from trainers import Trainers


@pytest.fixture(scope="session")
def pair() -> Iterator[Trainers]:
    with Trainers(2) as trainers:
        yield trainers
