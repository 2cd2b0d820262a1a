"""One pair of trainers for all tests of this room that do not break their job, and one whose gradients go through Gloo."""

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


@pytest.fixture(scope="session", params=["shared memory", "gloo"])
def either(request: pytest.FixtureRequest) -> Iterator[Trainers]:
    """The pair, then one that does not share memory: a promise that must hold on both ways."""
    if request.param == "gloo":
        with Trainers(2, env={"FLEET_SHARED_MEMORY": "off"}) as trainers:
            yield trainers
    else:
        yield request.getfixturevalue("pair")
