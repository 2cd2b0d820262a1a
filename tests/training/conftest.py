"""Two trainer processes for all tests of this room; each test plays its jobs in them, one after another."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent.parent
sys.path[0:0] = [str(TESTS), str(TESTS / "parameter_server")]

from servers import SECRET, Servers  # noqa: E402
from trainers import Trainers  # noqa: E402


@pytest.fixture(scope="session")
def training_pair() -> Iterator[Trainers]:
    with Trainers(2, init=False) as started:
        yield started


@pytest.fixture
def play(training_pair: Trainers) -> Callable[..., Any]:
    """Run ``training.jobs:WHAT`` as a job of its own: ``play("train", trainers=2, servers=1)`` -> outcome of each trainer."""

    def run(what: str, trainers: int = 2, servers: int = 0, **kwargs: Any) -> list[Any]:
        if servers == 0:
            return training_pair.run(f"training.jobs:{what}", world_size=trainers, **kwargs)[:trainers]
        with Servers(servers, world_size=trainers) as started:
            kwargs.update(servers=started.addresses, secret=SECRET)
            return training_pair.run(f"training.jobs:{what}", world_size=trainers, **kwargs)[:trainers]

    return run
