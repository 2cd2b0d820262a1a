"""Row life through real servers: sightings add up over trainers, a repeated push counts once, every mode obeys."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from frames import OPS, Peer, section
from proxy import CutsReplies, Proxy
from servers import SECRET, Servers, spec
from sessions import close, session, step

from fleet.errors import TableError
from fleet.parameter_server.row_life import Life, of

COUNT = of({"by": "count", "count": 5})


def rows_of(this: Any, table: str = "t") -> int:
    return sum(answer["tables"][table]["rows"] for answer in this.client.status())


@pytest.mark.parametrize("num_servers", [0, 1, 2])
def test_occurrences_in_batches_earn_a_row(num_servers: int) -> None:
    servers = Servers(num_servers) if num_servers else None
    this = session(servers, consistency="sync")
    try:
        table = this.open(spec(life=COUNT))
        ones = np.ones((4, 4), np.float32)
        assert (step(this, table, [7, 7, 7, 8], ones) == 0).all()  # unseen ids read as zeros
        assert (step(this, table, [7, 8, 8, 8], ones) == 0).all() and rows_of(this) == 0
        seen = step(this, table, [7, 8, 8, 9], ones)  # the fifth sighting of 7, the fifth and sixth of 8
        assert (seen == 0).all()
        this.flush()
        assert rows_of(this) == 2
        last = this.read(table, np.array([7, 8, 9], np.uint64))
        assert last[:, 0].tolist() == [1 - 1, 1 - 2, 0]  # the push that admits also teaches
    finally:
        close(this)
        if servers is not None:
            servers.__exit__(None)


def _train(this: Any, life: Life, batches: list[list[int]], failures: list[BaseException]) -> None:
    try:
        table = this.open(spec(dim=1, init_args=(0.0, 0.0), life=life))
        for ids in batches:
            step(this, table, ids, np.ones((len(ids), 1), np.float32))
        this.flush()
    except BaseException as error:  # noqa: BLE001 - shown by the caller
        failures.append(error)


def _rows(world_size: int, num_servers: int, life: Life, batches: list[list[int]], mode: str = "sync", broken: bool = False) -> Any:
    """Train on parts of the same global batches; return the rows of all ids."""
    with Servers(num_servers, world_size=world_size) as servers:
        through: tuple[str, ...] = ()
        proxies = [Proxy(a, CutsReplies(7, share=0.4)) for a in servers.addresses] if broken else []
        if proxies:
            through = tuple(p.__enter__().address for p in proxies)
        sessions = [session(servers, rank, world_size, through, consistency=mode) for rank in range(world_size)]
        failures: list[BaseException] = []
        parts = [[ids[rank::world_size] for ids in batches] for rank in range(world_size)]
        threads = [threading.Thread(target=_train, args=(s, life, p, failures)) for s, p in zip(sessions, parts, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures, failures
        found = sessions[0].read(sessions[0].client.tables["t"], np.arange(60, dtype=np.uint64))
        for one in sessions:
            close(one)
        for proxy in proxies:
            proxy.__exit__(None, None, None)
        return found


LIVES = (
    COUNT,
    of({"by": "probability", "probability": 0.2}, {"by": "age", "steps": 4}),
    of({"by": "count", "count": 2}, {"by": "age", "steps": 3}),
)


@pytest.mark.parametrize("life", LIVES, ids=repr)
def test_sync_gives_the_same_rows_for_any_number_of_trainers_and_servers(life: Life) -> None:
    rng = np.random.default_rng(2)
    batches = [np.sort(rng.zipf(1.4, 24) % 60).tolist() for _ in range(25)]
    alone = _rows(1, 1, life, batches)
    assert 0 < np.count_nonzero(alone) < 60
    np.testing.assert_array_equal(_rows(2, 2, life, batches), alone)


def test_a_push_that_is_sent_twice_is_one_sighting() -> None:
    batches = [list(range(10)) for _ in range(4)]
    assert not np.count_nonzero(_rows(1, 1, COUNT, batches, mode="async", broken=True))
    assert np.count_nonzero(_rows(1, 1, COUNT, [*batches, batches[0]], mode="async", broken=True)) == 10


def test_capacity_is_shared_by_the_servers_and_a_batch_must_fit() -> None:
    with Servers(2) as servers:
        this = session(servers, consistency="sync")
        table = this.open(spec(life=of(eviction={"by": "capacity", "rows": 300})))
        rng = np.random.default_rng(1)
        for _ in range(20):
            step(this, table, rng.integers(0, 1 << 60, 100), np.ones((100, 4), np.float32))
        this.flush()
        assert [answer["tables"]["t"]["rows"] for answer in this.client.status()] == [150, 150]
        with pytest.raises(TableError, match="ids to a server whose part of the capacity is 150 rows"):
            step(this, table, np.arange(400), np.ones((400, 4), np.float32))
            this.flush()


def test_shrink_evicts_at_once() -> None:
    with Servers(1) as servers:
        this = session(servers, consistency="sync")
        table = this.open(spec(life=of(eviction={"by": "score", "every": 10, "below": 0.5, "nonclick": 1.0})))
        for i in range(5):
            ids = np.concatenate([np.full(i + 1, 1000), np.arange(100 * i, 100 * i + 50)])
            step(this, table, ids, np.ones((len(ids), 4), np.float32))
        this.flush()
        assert rows_of(this) == 251 and this.client.shrink(0.0) == 0
        assert this.client.shrink(2.0) == 250 and rows_of(this) == 1


def test_sightings_that_a_table_does_not_ask_for_are_refused() -> None:
    plain, counted, clicked = Life(), COUNT, of({"by": "score"})
    with Servers(1) as servers, Peer(servers.addresses[0], SECRET) as peer:
        numbers = {}
        for name, life in (("plain", plain), ("counted", counted), ("clicked", clicked)):
            numbers[name] = peer.open(name, 3, life=life.to_json())
        keys, values = [5, 6], np.ones((2, 3), np.float32)
        sequence = 0
        for name, wanted in (("plain", 0), ("counted", 1), ("clicked", 2)):
            for given in range(3):
                sequence += 1
                seen = np.ones((given, 2), np.uint32) if given else None
                body = section(numbers[name], 3, keys, values, 1.0, seen=seen)
                answer = peer.push([body], sequence=sequence, step=sequence)
                assert (answer == {}) == (given == wanted), (name, given, answer)
        assert OPS["SHRINK"] == 15


def test_a_server_that_is_full_says_so_or_evicts() -> None:
    with Servers(1, env={"FLEET_SERVER_MEMORY": str(128 << 20)}) as servers:
        this = session(servers, consistency="sync")
        table = this.open(spec(dim=1024))
        grads = np.ones((2000, 1024), np.float32)
        with pytest.raises(TableError, match="is full: .* new rows") as caught:
            for i in range(60):
                step(this, table, np.arange(i * 2000, i * 2000 + 2000), grads)
            this.flush()
        assert "--server_memory" in str(caught.value) and "when_full" in str(caught.value)
    with Servers(1, env={"FLEET_SERVER_MEMORY": str(160 << 20)}) as servers:
        this = session(servers, consistency="sync", when_full="evict")
        table = this.open(spec(dim=1024, life=of(eviction={"by": "age", "steps": 10**6})))
        for i in range(60):
            step(this, table, np.arange(i * 2000, i * 2000 + 2000), grads)
        this.flush()
        assert 2000 <= rows_of(this) < 40_000
