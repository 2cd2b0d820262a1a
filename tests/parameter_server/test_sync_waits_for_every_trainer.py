"""``sync``: the sum over trainers is the same bits whatever the order of arrival, a pull waits for its step, and whoever is
missing is named in seconds."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from servers import IMPATIENT, SECRET, Servers, spec, stop

from fleet.errors import ConfigError, PeerLost, TableError
from fleet.parameter_server.client import Client, RowGradient, Table
from fleet.parameter_server.link import SocketLink

KEYS = np.arange(200, dtype=np.uint64)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """Two servers, on both sides with shorter deadlines."""
    monkeypatch.setattr("fleet.parameter_server.link.RECONNECT_S", 0.5)
    with Servers(2, world_size=3, argv=("-c", IMPATIENT)) as started:
        yield started


def opened(servers: Servers, ranks: range = range(3), mode: str = "sync", timeout_s: float = 20) -> list[tuple[Client, Table]]:
    clients = [servers.client(r, mode, timeout_s=timeout_s) for r in ranks]
    return [(c, c.open(spec(dim=8))) for c in clients]


def gradient(client: Client, table: Table, values: np.ndarray) -> list[tuple[Table, RowGradient]]:
    pulled = client.pull([(table, KEYS)], create=True).result(20)[0]
    by_key = np.empty_like(values)
    by_key[pulled.inverse] = values
    return [(table, RowGradient(pulled.keys, pulled.counts, by_key))]


def push_all(trainers: list[tuple[Client, Table]], values: list[np.ndarray], order: tuple[int, ...]) -> None:
    parts = [gradient(c, t, v) for (c, t), v in zip(trainers, values, strict=True)]
    for rank in order:
        trainers[rank][0].push(parts[rank], 0.1)
        for push in trainers[rank][0]._pushes:
            push.result(20)  # it has arrived before the next one's is sent


def test_the_order_of_arrival_changes_no_bit() -> None:
    """Gradients over twelve powers of ten: any other order of adding gives other bits, as the test shows first."""
    rng = np.random.default_rng(0)
    steps = [[(rng.standard_normal((200, 8)) * 10.0 ** rng.integers(-6, 6, (200, 8))).astype(np.float32) for _ in range(3)],
             [rng.standard_normal((200, 8)).astype(np.float32) for _ in range(3)]]  # fmt: skip
    a, b, c = steps[0]
    assert ((a + b) + c != (c + b) + a).any()
    found = []
    for order in itertools.permutations(range(3)):
        with Servers(1, world_size=3) as servers:
            trainers = opened(servers)
            for values in steps:
                push_all(trainers, values, order)
            found.append(trainers[0][0].read(trainers[0][1], KEYS).tobytes())
    assert len(set(found)) == 1
    expected = np.ones((200, 8), np.float32)
    for a, b, c in steps:
        expected = expected - np.float32(0.1) * ((a + b) + c)
    np.testing.assert_allclose(np.frombuffer(found[0], np.float32).reshape(200, 8), expected, rtol=1e-6)


def test_a_pull_waits_for_its_step(servers: Servers) -> None:
    trainers = opened(servers)
    ones = np.ones((200, 8), np.float32)
    (first, table), *others = trainers
    parts = [gradient(c, t, ones) for c, t in trainers]
    first.push(parts[0], 0.1)
    asked = first.pull([(table, KEYS)], create=True)
    time.sleep(0.2)
    assert not asked.done(), "the step lacks two trainers"
    others[0][0].push(parts[1], 0.1)
    time.sleep(0.1)
    assert not asked.done(), "the step lacks a trainer"
    others[1][0].push(parts[2], 0.1)
    np.testing.assert_allclose(asked.result(20)[0].rows, 0.7, rtol=1e-6)


def test_a_trainer_that_has_nothing_for_a_step_says_so(servers: Servers) -> None:
    """An empty push completes the step on every server."""
    trainers = opened(servers)
    part = gradient(*trainers[0], np.ones((200, 8), np.float32))
    trainers[0][0].push(part, 0.5)
    for client, _ in trainers[1:]:
        client.push([], 0.5)
    for client, table in trainers:
        assert (client.read(table, KEYS) == 0.5).all()


def test_a_late_trainer_is_named_within_the_time(servers: Servers) -> None:
    trainers = opened(servers, timeout_s=1.0)
    part = gradient(*trainers[1], np.ones((200, 8), np.float32))
    trainers[1][0].push(part, 0.1)
    start = time.monotonic()
    with pytest.raises(PeerLost, match="trainer 0, trainer 2 did not push step 1 within 1 s"):
        trainers[1][0].read(trainers[1][1], KEYS)
    assert 0.9 < time.monotonic() - start < 10


def test_a_trainer_whose_line_broke_is_named_and_not_waited_for(servers: Servers) -> None:
    """Its lines close as if it was killed; the others learn it after the time that it has to come back, not after timeout_s."""
    trainers = opened(servers, timeout_s=60)
    parts = [gradient(c, t, np.ones((200, 8), np.float32)) for c, t in trainers]
    for rank in (0, 1):
        trainers[rank][0].push(parts[rank], 0.1)
    start = time.monotonic()
    trainers[2][0].forget()
    with pytest.raises(PeerLost, match="trainer 2 lost its connection"):
        trainers[0][0].read(trainers[0][1], KEYS)
    assert time.monotonic() - start < 20


def test_a_trainer_that_ended_is_named_at_once(servers: Servers) -> None:
    trainers = opened(servers, timeout_s=60)
    parts = [gradient(c, t, np.ones((200, 8), np.float32)) for c, t in trainers]
    for rank in (0, 1):
        trainers[rank][0].push(parts[rank], 0.1)
    trainers[2][0].close()
    start = time.monotonic()
    with pytest.raises(PeerLost, match="trainer 2 has ended"):
        trainers[0][0].read(trainers[0][1], KEYS)
    assert time.monotonic() - start < 5


def test_a_trainer_that_ended_after_its_last_push_holds_nobody_up(servers: Servers) -> None:
    """It pushed the step that the others wait for: the slow one completes it."""
    trainers = opened(servers)
    parts = [gradient(c, t, np.ones((200, 8), np.float32)) for c, t in trainers]
    for rank in (0, 1):
        trainers[rank][0].push(parts[rank], 0.1)
    trainers[0][0].close()
    asked = trainers[1][0].pull([(trainers[1][1], KEYS)], create=True)
    time.sleep(0.3)
    trainers[2][0].push(parts[2], 0.1)
    np.testing.assert_allclose(asked.result(20)[0].rows, 0.7, rtol=1e-6)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_killed_server_is_named_with_its_log(servers: Servers, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("FLEET_LOG_DIR", "/logs/of/this/run")
    ((client, table),) = opened(servers, range(1), mode)
    client.read(table, KEYS)
    servers.processes[1].send_signal(signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(PeerLost, match="server 1 died") as caught:
        client.read(table, KEYS)
    assert time.monotonic() - start < 15
    assert "/logs/of/this/run/server-1.log" in caught.value.fix and "server 1 at unix:" in caught.value.at
    with pytest.raises(PeerLost, match="server 1 died"):  # and again, at once
        client.read(table, KEYS)
    assert time.monotonic() - start < 15


def test_a_server_killed_under_a_pull_that_waits(servers: Servers) -> None:
    trainers = opened(servers)
    trainers[0][0].push(gradient(*trainers[0], np.ones((200, 8), np.float32)), 0.1)
    asked = trainers[0][0].pull([(trainers[0][1], KEYS)], create=True)
    time.sleep(0.2)
    servers.processes[0].send_signal(signal.SIGKILL)
    with pytest.raises(PeerLost, match="server 0 died"):
        asked.result(15)


def test_a_server_that_does_not_answer_is_named(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.parameter_server.link.ANSWER_MARGIN_S", 0.5)
    ((client, table),) = opened(servers, range(1), timeout_s=0.5)
    client.read(table, KEYS)
    stop(servers.processes[1].pid)
    with pytest.raises(PeerLost, match=r"server 1 has not answered for \d+ s"):
        client.read(table, KEYS)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_gradients_that_are_not_finite(servers: Servers, mode: str, value: float) -> None:
    """The trainer gets table and count at its next call; in sync the others get the same cause, not a time-out; rows stay."""
    trainers = opened(servers, mode=mode)
    bad = np.ones((200, 8), np.float32)
    bad[7, 3] = bad[9, 1] = bad[9, 2] = value
    parts = [gradient(c, t, v) for (c, t), v in zip(trainers, [bad, np.ones_like(bad), np.ones_like(bad)], strict=True)]
    start = time.monotonic()
    trainers[0][0].push(parts[0], 0.1)
    words = r"\d NaN or infinite gradient values for table 't' from trainer 0; the table is unchanged"
    with pytest.raises(TableError, match=words):
        trainers[0][0].pull([(trainers[0][1], KEYS)], create=True).result(20)
    if mode == "sync":
        with pytest.raises(TableError, match=words):
            trainers[1][0].push(parts[1], 0.1)
            trainers[1][0].read(trainers[1][1], KEYS)
    else:
        rows = trainers[1][0].read(trainers[1][1], KEYS)
        assert np.isfinite(rows).all() and (rows[9] == 1).all()
    assert time.monotonic() - start < 10


def test_async_waits_for_nothing(servers: Servers) -> None:
    """One trainer runs a hundred steps while the others do nothing, and sees its own pushes."""
    trainers = opened(servers, mode="async")
    client, table = trainers[0]
    part = gradient(client, table, np.ones((200, 8), np.float32))
    for _ in range(100):
        client.push(part, 0.25)
    assert (client.read(table, KEYS) == 1 - 25).all()
    assert (trainers[2][0].read(trainers[2][1], KEYS) == 1 - 25).all()


def test_a_step_that_is_applied_already_is_refused(servers: Servers) -> None:
    trainers = opened(servers)
    for client, _ in trainers:
        client.push([], 0.1)
    for client, _ in trainers:
        client.flush()
    trainers[0][0].step = 0
    with pytest.raises(TableError, match="trainer 0 pushed step 1, 1 steps are applied"):
        trainers[0][0].push([], 0.1)
        trainers[0][0].flush()


def test_trainers_that_list_other_servers_are_refused(servers: Servers) -> None:
    for addresses in (servers.addresses[::-1], servers.addresses[:1], (*servers.addresses, "unix:/nowhere")):
        with pytest.raises(ConfigError, match="is server . of 2, not . of"):
            SocketLink(addresses[0], 0, SECRET, 0, 1, 5.0, len(addresses))


def test_trainers_wait_in_parallel(servers: Servers) -> None:
    """Ten steps of three trainers in three threads, each pulling what the step before left: every one sees the same rows."""
    trainers = opened(servers)
    seen: list[list[bytes]] = [[], [], []]

    def train(rank: int) -> None:
        client, table = trainers[rank]
        for _ in range(10):
            pulled = client.pull([(table, KEYS)], create=True).result(20)[0]
            seen[rank].append(pulled.rows.tobytes())
            client.push([(table, RowGradient(pulled.keys, pulled.counts, pulled.rows * (rank + 1)))], 0.01)
        client.flush()

    threads = [threading.Thread(target=train, args=(r,)) for r in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(seen[0]) == 10 and seen[0] == seen[1] == seen[2] and len(set(seen[0])) == 10
