"""Lines that break at any byte, come late or deliver twice: each push counts exactly once.

SGD with rate 1 makes a row its initial value minus the sum of all gradients that were ever pushed to it. The gradients are
small integers, so that float32 adds them without rounding in any order, and the sums can be compared to the bit.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import pytest
from frames import OPS, Peer, section
from proxy import CutsReplies, CutsRequests, Delays, Fault, Proxy, Repeats
from servers import SECRET, Servers, spec

from fleet.errors import ConfigError
from fleet.parameter_server.client import Client, RowGradient, Table

NUM_KEYS, DIM = 300, 3


def push(client: Client, table: Table, keys: np.ndarray, values: np.ndarray, rate: float = 1.0) -> None:
    """Push gradients of keys, repeats added up."""
    client.push([(table, gradient_of(client, table, keys, values))], rate)


def gradient_of(client: Client, table: Table, keys: np.ndarray, values: np.ndarray) -> RowGradient:
    pulled = client.pull([(table, keys)], create=True).result()[0]
    merged = np.zeros((len(pulled.keys), table.spec.dim), np.float32)
    np.add.at(merged, pulled.inverse, values)
    return RowGradient(pulled.keys, pulled.counts, merged)


def _train(client: Client, rank: int, steps: int, total: np.ndarray, guard: threading.Lock) -> None:
    table = client.open(spec("sum", DIM, init_args=(0.0, 0.0)))
    rng = np.random.default_rng(rank)
    for _ in range(steps):
        keys = rng.integers(0, NUM_KEYS, 50).astype(np.uint64)
        values = rng.integers(-4, 5, (50, DIM)).astype(np.float32)
        push(client, table, keys, values)
        with guard:
            np.add.at(total, keys.astype(np.int64), values)
    client.flush()


def _conserved(mode: str, make_fault: Callable[[int], Fault], steps: int, num_servers: int = 2) -> list[Fault]:
    """Train through faulty lines and compare the rows with the sum; return the faults."""
    num_trainers = 3
    with ExitStack() as stack:
        servers = stack.enter_context(Servers(num_servers, world_size=num_trainers))
        faults = [make_fault(i) for i in range(num_servers)]
        through = tuple(stack.enter_context(Proxy(a, f)).address for a, f in zip(servers.addresses, faults, strict=True))
        total, guard = np.zeros((NUM_KEYS, DIM), np.float32), threading.Lock()
        bound = {"staleness": 2} if mode == "bounded" else {}
        clients = [servers.client(r, mode, through=through, **bound) for r in range(num_trainers)]
        errors: list[BaseException] = []

        def train(rank: int) -> None:
            try:
                _train(clients[rank], rank, steps, total, guard)
            except BaseException as error:  # noqa: BLE001 - raised below
                errors.append(error)

        threads = [threading.Thread(target=train, args=(r,)) for r in range(num_trainers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert not errors, errors
        for fault in faults:
            for late in getattr(fault, "threads", ()):
                late.join()
        reader = servers.client(0, mode, incarnation=2, **bound)
        reader.step = steps
        rows = reader.read(reader.open(spec("sum", DIM, init_args=(0.0, 0.0))), np.arange(NUM_KEYS, dtype=np.uint64))
        np.testing.assert_array_equal(rows, -total)
        assert np.abs(total).max() > 10
        return faults


@pytest.mark.parametrize("mode", ["sync", "async", "bounded"])
@pytest.mark.parametrize("kind", [CutsRequests, CutsReplies, Delays])
def test_the_sum_of_all_gradients_is_conserved(mode: str, kind: type[Fault]) -> None:
    faults = _conserved(mode, lambda i: kind(seed=i, share=0.08), steps=15)
    assert sum(f.done for f in faults) > 5


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("kind", [CutsRequests, CutsReplies])
@pytest.mark.parametrize("seed", range(3))
def test_the_sum_is_conserved_on_lines_that_break_all_the_time(mode: str, kind: type[Fault], seed: int) -> None:
    faults = _conserved(mode, lambda i: kind(seed=10 * seed + i, share=0.2), steps=60, num_servers=3)
    assert sum(f.done for f in faults) > 100


def test_a_push_that_arrives_a_second_time_later_on_another_line() -> None:
    """A late copy comes behind newer pushes of the same trainer, or beside them: it counts for nothing."""
    with Servers(1, world_size=1) as servers:
        told: Counter[int] = Counter()

        def again(whole: bytes) -> None:
            with Peer(servers.addresses[0], SECRET, trainer=0, incarnation=1) as peer:
                peer.line.sendall(whole)
                told[peer.receive()[0]["op"]] += 1

        fault = Repeats(seed=0, share=0.5, repeat=again)
        with Proxy(servers.addresses[0], fault) as proxy:
            client = servers.client(0, "async", through=(proxy.address,))
            total = np.zeros((NUM_KEYS, DIM), np.float32)
            _train(client, 0, 40, total, threading.Lock())
            for late in fault.threads:
                late.join()
            assert told[OPS["DONE"]] == len(fault.threads) > 10
            rows = client.read(client.tables["sum"], np.arange(NUM_KEYS, dtype=np.uint64))
            np.testing.assert_array_equal(rows, -total)


def test_the_same_push_on_many_lines_at_once() -> None:
    """Twenty copies race each other to one server: one counts."""
    with Servers(1, world_size=1) as servers:
        peers = [Peer(servers.addresses[0], SECRET) for _ in range(20)]
        table = peers[0].open("race", 64)
        keys = np.arange(2000, dtype=np.uint64)
        peers[0].pull([(table, 64, keys)])
        part = section(table, 64, keys, np.ones((2000, 64)), 1.0)
        gate = threading.Barrier(len(peers))

        def send(peer: Peer) -> None:
            gate.wait(10)
            assert peer.push([part], sequence=1, step=1) == {}

        threads = [threading.Thread(target=send, args=(p,)) for p in peers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert (peers[0].pull([(table, 64, keys)])[0] == 0).all()
        for peer in peers:
            peer.line.close()


def test_a_restarted_trainer_is_not_taken_for_its_past() -> None:
    """The new life counts from 1 again and its pushes count; the old life, still running, is refused and changes nothing."""
    with Servers(2, world_size=1) as servers:
        keys = np.arange(100, dtype=np.uint64)
        old = servers.client(0, "async", incarnation=10)
        table = old.open(spec("life", DIM))
        for _ in range(5):
            push(old, table, keys, np.ones((100, DIM)))
        old.flush()
        new = servers.client(0, "async", incarnation=11)
        renewed = new.open(spec("life", DIM))
        push(new, renewed, keys, np.ones((100, DIM)))
        assert (new.read(renewed, keys) == 1 - 6).all()
        with pytest.raises(ConfigError, match="trainer 0 was started again; this is an earlier life of it"):
            push(old, table, keys, np.ones((100, DIM)))
            old.flush()
        assert (new.read(renewed, keys) == 1 - 6).all()


def test_a_line_that_breaks_during_an_upload() -> None:
    """ASSIGN is numbered like PUSH: an upload that is sent again does not undo what came after it."""
    with ExitStack() as stack:
        servers = stack.enter_context(Servers(2, world_size=1))
        through = tuple(stack.enter_context(Proxy(a, CutsReplies(seed=3, share=0.3))).address for a in servers.addresses)
        client = servers.client(0, "sync", through=through)
        table = client.open(spec("upload", DIM))
        keys = np.arange(1000, dtype=np.uint64)
        values = np.random.default_rng(0).standard_normal((1000, DIM)).astype(np.float32)
        for start in range(0, 1000, 100):
            client.assign(table, keys[start : start + 100], values[start : start + 100])
        np.testing.assert_array_equal(client.read(table, keys), values)


def test_a_line_that_breaks_at_every_request_ends_the_job() -> None:
    """No endless loop: after a bounded number of tries the trainer says that the server cannot be reached."""
    with Servers(1) as servers, Proxy(servers.addresses[0], CutsRequests(share=1.0)) as proxy:
        start = time.monotonic()
        client = servers.client(through=(proxy.address,))
        with pytest.raises(Exception, match="server 0 died"):
            client.open(spec())
        assert time.monotonic() - start < 15 and proxy.lines <= 12
