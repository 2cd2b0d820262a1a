"""A server or a trainer that is slower than the others is named, once; nobody is where all are alike."""

from __future__ import annotations

import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from servers import Servers, spec

from fleet.parameter_server import report, statistics
from fleet.parameter_server.client import Client, RowGradient
from fleet.parameter_server.statistics import RoundTrips, slow_trainer


def step(client: Client, table: Any) -> None:
    keys = np.arange(64, dtype=np.uint64)
    (pulled,) = client.pull([(table, keys)], create=True).result()
    client.push([(table, RowGradient(pulled.keys, pulled.counts, np.ones((64, table.spec.dim), np.float32)))], 0.1)
    client.flush()


def test_a_server_that_is_stopped_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "WINDOW_PUSHES", 16)
    said: list[str] = []
    with Servers(3, world_size=1) as servers:
        client = servers.client(mode="async")
        client.on_slow = said.append
        table = client.open(spec())
        done = threading.Event()

        def pulse() -> None:
            while not done.is_set():
                servers.processes[1].send_signal(signal.SIGSTOP)
                time.sleep(0.03)
                servers.processes[1].send_signal(signal.SIGCONT)
                time.sleep(0.001)

        pulses = threading.Thread(target=pulse)
        pulses.start()
        try:
            end = time.monotonic() + 20
            while not said and time.monotonic() < end:
                step(client, table)
            for _ in range(40):  # and it is not said again
                step(client, table)
        finally:
            done.set()
            pulses.join()
        assert len(said) == 1 and said[0].startswith("server 1 is slower than the others: a push takes"), said
        found = report.of(client)
        assert found["slow"] == said and f"slow: {said[0]}" in report.closing_table(found)
        assert all(server["round_trip_ms"] > 0 for server in found["servers"])  # of the last window, whoever was slow in it


def test_a_trainer_that_others_wait_for() -> None:
    # The window is the server's, in its own process: a launcher of two lines shortens it.
    short = "import sys\nfrom fleet.parameter_server import server, statistics\nstatistics.WINDOW_S = 1.0\nsys.exit(server.main())"
    with Servers(2, world_size=2, argv=("-c", short)) as servers:
        clients = [servers.client(rank=r) for r in (0, 1)]
        tables = [c.open(spec()) for c in clients]

        def train(rank: int) -> None:
            for _ in range(30):
                if rank == 1:
                    time.sleep(0.08)
                step(clients[rank], tables[rank])

        threads = [threading.Thread(target=train, args=(r,)) for r in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert servers.until(0, "slower than the others").count("trainer 1 is slower than the others: they spent") == 1
        assert "slower" not in servers.log(1)  # said once in the job
        found = report.of(clients[0])
        trainers = found["servers"][0]["trainers"]
        assert trainers["1"]["waited_for_s"] > 1 > trainers["0"]["waited_for_s"]
        assert any(text.startswith("trainer 1") for text in found["slow"]) and found["servers"][0]["wait"]["max_ms"] > 20


def test_a_trainer_that_every_server_names_is_named_once() -> None:
    said = [f"trainer 1 is slower than the others: they spent {share}% of 10 s waiting for it" for share in (40, 43)]
    told = [{"tables": {}, "slow_trainer": text} for text in ("", *said)]
    assert report.of(SimpleNamespace(status=lambda: told, round_trips=RoundTrips(3)))["slow"] == said[:1]  # type: ignore[arg-type]


def test_the_rules() -> None:
    assert slow_trainer([0.1, 3.0], {0: 50, 1: 50}, 10.0).startswith("trainer 1 is slower than the others: they spent 30%")
    assert slow_trainer([3.0, 3.1], {0: 50, 1: 50}, 10.0) == ""  # alike: now one is late, now the other
    assert slow_trainer([0.0, 1.9], {0: 50, 1: 50}, 10.0) == ""
    behind = slow_trainer([0, 0, 0], {0: 50, 1: 20, 2: 50}, 10.0)
    assert behind == "trainer 1 is slower than the others: 20 steps in 10 s, they took 50"
    for lost, steps in (([0, 0], {0: 50, 1: 40}), ([9.0], {0: 1}), ([0, 0], {0: 9, 1: 0})):
        assert slow_trainer(lost, steps, 10.0) == ""


def test_alike_servers_are_not_named() -> None:
    trips = RoundTrips(3)
    for i in range(1000):
        for server, seconds in enumerate((0.001, 0.0012, 0.0045 if i % 2 else 0.0009)):
            trips.add(server, seconds)
        assert trips.name_slow() == []
    one = RoundTrips(1)
    one.add(0, 5.0)
    assert one.name_slow() == []
