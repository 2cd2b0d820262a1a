"""``bounded``: a pull waits exactly until the slowest trainer trails by the bound; whoever ended is not waited for, whoever died
is named. What the server counted and what the trainers saw of each other agree."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from servers import IMPATIENT, Servers, spec
from sessions import close, session, step

from fleet.errors import ConfigError, PeerLost
from fleet.parameter_server.client import Client, RowGradient, Table

KEYS = np.arange(100, dtype=np.uint64)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """Two servers, on both sides with shorter deadlines."""
    monkeypatch.setattr("fleet.parameter_server.link.RECONNECT_S", 0.5)
    with Servers(2, world_size=2, argv=("-c", IMPATIENT)) as started:
        yield started


def opened(servers: Servers, staleness: int, timeout_s: float = 20) -> list[tuple[Client, Table]]:
    clients = [servers.client(r, "bounded", staleness=staleness, timeout_s=timeout_s) for r in range(servers.world_size)]
    return [(c, c.open(spec(dim=2))) for c in clients]


def push(client: Client, table: Table) -> None:
    pulled = client.pull([(table, KEYS)], create=False).result(20)[0]  # a look never waits
    client.push([(table, RowGradient(pulled.keys, pulled.counts, np.ones((100, 2), np.float32)))], 1.0)


def counted(client: Client) -> list[int]:
    return [answer["staleness"] for answer in client.status()]


@pytest.mark.parametrize("staleness", [1, 3])
def test_a_pull_waits_until_the_slowest_is_near_enough(servers: Servers, staleness: int) -> None:
    (fast, table), (slow, other) = opened(servers, staleness)
    for _ in range(staleness):
        push(fast, table)
    assert fast.pull([(table, KEYS)], create=True).result(20)[0].rows.max() == 1 - staleness
    push(fast, table)
    asked = fast.pull([(table, KEYS)], create=True)
    time.sleep(0.2)
    assert not asked.done(), "the slow trainer trails by one more than the bound"
    slow.push([], 1.0)  # nothing for this step: the servers hear of it all the same
    assert asked.result(20)[0].rows.max() == -staleness
    assert counted(fast) == [staleness] * 2
    assert slow.pull([(other, KEYS)], create=True).result(20)[0].rows.max() == -staleness  # the slow one never waits


def test_the_rows_of_a_coming_batch_count_the_steps_before_it(servers: Servers) -> None:
    """Asked for one step ahead, with prefetch=1: the bound holds when the rows are used, not when they were asked for."""
    (fast, table), (slow, _) = opened(servers, 1)
    assert fast.pull([(table, KEYS)], create=True, ahead=1).result(20)
    push(fast, table)
    asked = fast.pull([(table, KEYS)], create=True, ahead=1)
    time.sleep(0.2)
    assert not asked.done()
    slow.push([], 1.0)
    asked.result(20)
    assert max(counted(fast)) == 1


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("staleness", [1, 2])
def test_counted_over_trainers_of_uneven_speed(staleness: int, prefetch: int) -> None:
    num_trainers, steps = 3, 25
    with Servers(2, world_size=num_trainers) as servers:
        sessions = [session(servers, r, num_trainers, consistency="bounded", staleness=staleness, prefetch=prefetch)
                    for r in range(num_trainers)]  # fmt: skip
        tables = [s.open(spec(dim=2)) for s in sessions]
        seen: list[int] = []
        failures: list[BaseException] = []

        def train(rank: int) -> None:
            mine, rng = sessions[rank], np.random.default_rng(rank)
            batches = [rng.integers(0, 100, 5 + 20 * (n % 2)).astype(np.uint64) for n in range(steps)]  # some miss a server
            try:
                for number, ids in enumerate(batches):
                    for coming in batches[:2] if number == 0 else batches[number + 1 : number + 2]:
                        mine.announce({"t": coming}, True)
                    mine.rows(tables[rank], ids, True)
                    seen.append(mine.client.step - min(s.client.step for s in sessions))
                    step(mine, tables[rank], ids, np.ones((len(ids), 2)))
                    if rank == number % num_trainers:
                        time.sleep(0.01 * rng.random())
                mine.flush()
            except BaseException as error:  # noqa: BLE001 - raised below
                failures.append(error)

        threads = [threading.Thread(target=train, args=(r,)) for r in range(num_trainers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures, failures
        assert 1 <= max(counted(sessions[0].client)) <= staleness
        assert len(seen) == num_trainers * steps and max(seen) <= staleness
        for this in sessions:
            close(this)


def test_a_trainer_that_ended_is_not_slow(servers: Servers) -> None:
    (fast, table), (slow, _) = opened(servers, 1)
    for _ in range(4):
        push(fast, table)
    asked = fast.pull([(table, KEYS)], create=True)
    time.sleep(0.1)
    assert not asked.done()
    slow.close()
    asked.result(20)
    for _ in range(4):
        push(fast, table)
    assert fast.pull([(table, KEYS)], create=True).result(20)[0].rows.max() == 1 - 8
    assert max(counted(fast)) <= 1  # against nobody


def test_a_trainer_that_died_is_named(servers: Servers) -> None:
    (fast, table), (slow, _) = opened(servers, 1)
    push(fast, table)
    push(fast, table)
    slow.forget()
    start = time.monotonic()
    with pytest.raises(PeerLost, match="step 1 cannot be completed: trainer 1 lost its connection"):
        fast.pull([(table, KEYS)], create=True).result(20)
    assert time.monotonic() - start < 15


def test_a_late_trainer_is_named_within_the_time(servers: Servers) -> None:
    (fast, table), _ = opened(servers, 1, timeout_s=1.0)
    for _ in range(3):
        push(fast, table)
    with pytest.raises(PeerLost, match="trainer 1 did not push step 2 within 1 s"):
        fast.pull([(table, KEYS)], create=True).result(20)


def test_trainers_with_different_bounds_are_refused(servers: Servers) -> None:
    servers.client(0, "bounded", staleness=1).open(spec())
    with pytest.raises(ConfigError, match="runs bounded with a staleness of 1 .* asks for bounded with a staleness of 2"):
        servers.client(1, "bounded", staleness=2).open(spec())


def test_a_bound_of_zero_is_sync_to_the_bit() -> None:
    """Three trainers, gradients over many powers of ten: only the same order of adding gives the same bits."""
    found = []
    for block in ({"consistency": "sync"}, {"consistency": "bounded", "staleness": 0}):
        with Servers(2, world_size=3) as servers:
            sessions = [session(servers, r, 3, **block) for r in range(3)]
            tables = [s.open(spec(dim=4, optimizer="adagrad")) for s in sessions]
            seen: list[list[bytes]] = [[], [], []]

            def train(rank: int, sessions: list = sessions, tables: list = tables, seen: list = seen) -> None:
                rng = np.random.default_rng(rank)
                for _ in range(12):
                    ids = rng.integers(0, 60, 30)
                    values = rng.standard_normal((30, 4)) * 10.0 ** rng.integers(-6, 6, (30, 4))
                    seen[rank].append(step(sessions[rank], tables[rank], ids, lambda rows, v=values: v + rows, 0.1).tobytes())
                sessions[rank].flush()

            threads = [threading.Thread(target=train, args=(r,)) for r in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            found.append((seen, sessions[0].read(tables[0], KEYS).tobytes(), counted(sessions[0].client)))
            for this in sessions:
                close(this)
    assert found[0] == found[1] and found[1][2] == [0, 0] and len(found[0][0][0]) == 12
