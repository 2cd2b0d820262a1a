"""Two trainers with Paddle and real servers: what cannot work ends on every trainer, in seconds, with the cause.

One pair of processes plays all jobs, the one that kills a trainer last.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from servers import IMPATIENT, SECRET, Servers
from trainers import Trainers

from fleet.errors import ConfigError, FleetError, PeerLost, TableError

IN_SECONDS = 20  # against a hang; timeout_s of these jobs is 20, and the causes are told before it goes by


@pytest.fixture(scope="module")
def pair() -> Iterator[Trainers]:
    trainers = Trainers(2, init=False)
    yield trainers
    for process in trainers.processes:
        process.kill()  # one was killed by its test
        process.wait()


def outcomes(pair: Trainers, servers: Servers, **options: Any) -> list[Any]:
    start = time.monotonic()
    found = pair.outcomes("parameter_server.ps_jobs:train_until", servers=servers.addresses, secret=SECRET, **options)
    assert time.monotonic() - start < 2 * IN_SECONDS
    for outcome in found:
        assert not isinstance(outcome, TimeoutError), [pair.log(r)[-1500:] for r in range(2)]
    return found


def test_nothing_breaks(pair: Trainers) -> None:
    with Servers(2, world_size=2) as servers:
        assert outcomes(pair, servers, steps=5) == [5, 5]


def test_different_consistencies(pair: Trainers) -> None:
    with Servers(1, world_size=2) as servers:
        for outcome in outcomes(pair, servers, consistency=("sync", "async"), steps=5):
            assert isinstance(outcome, ConfigError) and "parameter_server" in str(outcome), outcome


def test_different_dims(pair: Trainers) -> None:
    """The second trainer that opens the table is told what differs; the first learns that it is alone."""
    with Servers(1, world_size=2) as servers:
        found = outcomes(pair, servers, dims=(4, 6), steps=5)
        words = r"table '0' exists with .*dim (4, not 6|6, not 4)"
        assert any(isinstance(o, TableError) and re.search(words, o.what) for o in found), found
        assert all(isinstance(o, FleetError) for o in found), found


def test_a_trainer_with_another_secret(pair: Trainers) -> None:
    with Servers(1, world_size=2) as servers:
        found = outcomes(pair, servers, secrets=(SECRET, "another"), steps=5)
        assert isinstance(found[1], ConfigError) and "the job secret is wrong" in found[1].what
        assert isinstance(found[0], FleetError), found


@pytest.mark.parametrize("mode", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_a_server_is_killed(pair: Trainers, mode: str) -> None:
    with Servers(2, world_size=2) as servers:
        before = [pair.log(r).count("step ") for r in range(2)]

        def kill() -> None:
            end = time.monotonic() + IN_SECONDS
            while min(pair.log(r).count("step ") - before[r] for r in range(2)) < 20 and time.monotonic() < end:
                time.sleep(0.01)
            servers.processes[1].kill()

        killer = threading.Thread(target=kill)
        killer.start()
        found = outcomes(pair, servers, consistency=mode)
        killer.join()
        assert any(isinstance(o, PeerLost) and "server 1 died" in o.what for o in found), found
        assert all(isinstance(o, FleetError) for o in found), found


def test_a_trainer_is_killed(pair: Trainers) -> None:
    with Servers(2, world_size=2, argv=("-c", IMPATIENT)) as servers:
        found = outcomes(pair, servers, die_at=20)
        assert isinstance(found[1], EOFError)
        assert isinstance(found[0], FleetError) and "trainer 1" in str(found[0]), found
