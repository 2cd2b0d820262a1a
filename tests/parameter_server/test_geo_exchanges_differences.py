"""``geo``: trainers work on copies of the rows; the servers move by the mean of what they did. Against NumPy, step by step."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
from servers import Servers, spec
from sessions import close, session, step

from fleet.errors import SnapshotError, TableError

KEYS = np.arange(60, dtype=np.uint64)
DIM = 3


def all_rows(this: object) -> np.ndarray:
    return this.client.read(this.client.tables["t"], KEYS)  # type: ignore[attr-defined]


class Oracle:
    """Adagrad on a trainer's own copy; the state is its own and stays when the copy is renewed."""

    def __init__(self) -> None:
        self.sums = np.zeros((60, DIM), np.float32)
        self.renew(np.ones((60, DIM), np.float32))

    def renew(self, server: np.ndarray) -> None:
        self.copy, self.before = server.copy(), server.copy()
        self.fetched = np.zeros(60, bool)

    def step(self, server: np.ndarray, ids: np.ndarray, gradient: np.ndarray) -> None:
        fresh = np.setdiff1d(ids, np.flatnonzero(self.fetched))
        self.copy[fresh] = self.before[fresh] = server[fresh]  # a row is fetched at its first use
        self.fetched[ids] = True
        self.sums[ids] += gradient * gradient
        self.copy[ids] -= np.float32(0.1) * gradient / (np.sqrt(self.sums[ids]) + np.float32(1e-6))

    def difference(self, num_trainers: int) -> np.ndarray:
        return (self.copy - self.before) / np.float32(num_trainers)


def test_two_trainers_against_numpy() -> None:
    """In turns, so that NumPy knows the order: k_steps 2 and 20 steps, rows shared by both."""
    with ExitStack() as stack:
        servers = stack.enter_context(Servers(2, world_size=2))
        sessions = [session(servers, r, 2, consistency="geo", k_steps=2, prefetch=0) for r in range(2)]
        tables = [s.open(spec(dim=DIM, optimizer="adagrad")) for s in sessions]
        server, oracles, rng = np.ones((60, DIM), np.float32), [Oracle(), Oracle()], np.random.default_rng(0)
        for number in range(20):
            for rank in (0, 1):
                ids = rng.choice(60, 15, replace=False)
                gradient = rng.standard_normal((15, DIM)).astype(np.float32)
                seen = step(sessions[rank], tables[rank], ids, gradient, 0.1)
                oracle = oracles[rank]
                expected = np.where(oracle.fetched[ids, None], oracle.copy[ids], server[ids])
                np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-6)
                oracle.step(server, ids, gradient)
                if number % 2:
                    server = server + oracle.difference(2)
                    oracle.renew(server)
                    sessions[rank].client._run(lambda: None)  # the exchange is done before the other's turn
        np.testing.assert_allclose(all_rows(sessions[0]), server, rtol=1e-5, atol=1e-6)
        assert np.abs(server - 1).max() > 0.2
        for this in sessions:
            close(this)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise_adagrad", "adam"])
@pytest.mark.parametrize("k_steps", [1, 4, 1000])
def test_one_trainer_is_one_machine_whatever_k_is(optimizer: str, k_steps: int) -> None:
    found = []
    for block in ({"consistency": "geo", "k_steps": k_steps}, {"consistency": "sync"}):
        this = session(None, prefetch=0, **block)
        table = this.open(spec(dim=DIM, optimizer=optimizer))
        rng = np.random.default_rng(1)
        noise = rng.standard_normal((30, 20, DIM))
        seen = [step(this, table, rng.integers(0, 60, 20), lambda rows, g=g: rows + g, 0.1) for g in noise]
        found.append((np.array(seen), this.read(table, KEYS)))
        close(this)
    np.testing.assert_array_equal(found[0][0], found[1][0])  # to the bit: nobody else moves the rows, so the copies are kept
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6, atol=1e-7)  # the servers add differences, each rounded once


def test_two_trainers_with_k_1_and_sgd_are_a_sync_step() -> None:
    """Both look their rows up before either sends: the mean of two steps is a step by the mean gradient."""
    with Servers(1, world_size=2) as servers:
        sessions = [session(servers, r, 2, consistency="geo", k_steps=1, prefetch=0) for r in range(2)]
        tables = [s.open(spec(dim=DIM)) for s in sessions]
        pulled = [s.rows(t, KEYS, True) for s, t in zip(sessions, tables, strict=True)]
        gradients = np.random.default_rng(0).standard_normal((2, 60, DIM)).astype(np.float32)
        for this, table, rows, gradient in zip(sessions, tables, pulled, gradients, strict=True):
            this.collect(table, rows, gradient)
            this.push(0.5)
            this.flush()
        np.testing.assert_allclose(all_rows(sessions[1]), 1 - 0.5 * gradients.mean(axis=0), rtol=1e-5, atol=1e-6)
        for this in sessions:
            close(this)


def test_an_evaluation_of_several_trainers_sees_the_servers_rows() -> None:
    """A trainer's own copy runs ahead by what the mean takes away: it is no model that anybody saves."""
    with Servers(1, world_size=2) as servers:
        sessions = [session(servers, r, 2, consistency="geo", k_steps=100, prefetch=0) for r in range(2)]
        tables = [s.open(spec(dim=DIM)) for s in sessions]
        for this, table in zip(sessions, tables, strict=True):
            step(this, table, [1, 2], np.full((2, DIM), 0.5))
        seen = [this.rows(t, KEYS[1:3], False) for this, t in zip(sessions, tables, strict=True)]
        assert [p.rows[p.inverse][:, 0].tolist() for p in seen] == [[0.75, 0.75], [0.5, 0.5]]  # each had sent its half by then
        for this in sessions:
            close(this)


def test_an_evaluation_keeps_no_copies_and_sees_the_own_steps() -> None:
    this = session(None, consistency="geo", k_steps=100)
    table = this.open(spec(dim=DIM))
    step(this, table, [1, 2], np.ones((2, DIM)))
    pulled = this.rows(table, np.array([2, 50, 2, 51], np.uint64), False)
    assert pulled.rows[pulled.inverse].tolist() == [[0.0] * DIM, [1.0] * DIM, [0.0] * DIM, [1.0] * DIM]
    assert this.client._copies["t"].rows.size == 2 and this.client.status()[0]["tables"]["t"]["rows"] == 2
    close(this)


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 8), ("float16", 11)])
@pytest.mark.parametrize("world_size", [1, 2])
def test_what_rounding_takes_from_a_difference_goes_later(dtype: str, bits: int, world_size: int) -> None:
    """After every exchange the servers lack at most half a last bit of what was to be sent; after a flush nothing."""
    with Servers(2, world_size=3) as servers:
        block = {"consistency": "geo", "k_steps": 2, "prefetch": 0}
        sessions = [session(servers, rank, world_size, wire=dtype, **block) for rank in range(world_size)]
        reader = session(servers, 2, 3, **block)  # to read is to flush: so somebody else reads
        reader.open(spec(dim=DIM, init_args=(0.0, 0.0)))
        tables = [s.open(spec(dim=DIM, init_args=(0.0, 0.0))) for s in sessions]
        rng, expected = np.random.default_rng(0), np.zeros((60, DIM))
        lacking = 0.0
        for number in range(40):
            for rank, this in enumerate(sessions):
                ids = rng.choice(60, 50 if number < 30 else 5, replace=False)  # some rows owe to the end and are not used again
                gradient = rng.standard_normal((len(ids), DIM)).astype(np.float32)
                step(this, tables[rank], ids, gradient, 0.5)
                expected[ids] -= 0.5 * gradient / world_size
                this.client._run(lambda: None)  # an exchange is done before the other's turn
            if number % 2:
                server = all_rows(reader)
                assert np.isfinite(server).all()
                lacking = max(lacking, abs(server - expected).max())
        assert 2.0 ** -(bits + 4) < lacking < 2.0**-bits * 4 * world_size  # no difference here is larger than 4
        for this in sessions:
            this.flush()
        np.testing.assert_allclose(all_rows(reader), expected, atol=2e-5)  # 40 steps of float32
        for this in (*sessions, reader):
            close(this)


def test_one_trainer_sees_its_own_steps_in_full() -> None:
    """With 16 bits on the wire too: it goes on from its copies."""
    found = []
    for wire in ("float32", "bfloat16"):
        this = session(None, consistency="geo", k_steps=1, wire=wire, prefetch=0)
        table = this.open(spec(dim=DIM, optimizer="adam"))
        rng = np.random.default_rng(1)
        found.append([step(this, table, rng.integers(0, 60, 20), rng.standard_normal((20, DIM)), 0.1) for _ in range(20)])
        close(this)
    np.testing.assert_array_equal(found[0], found[1])  # rows begin at 1, which 16 bits hold


def test_a_difference_that_16_bits_cannot_hold_is_named() -> None:
    this = session(None, consistency="geo", k_steps=1, wire="float16")
    table = this.open(spec(dim=DIM))
    step(this, table, [1], np.full((1, DIM), 1e6))
    with pytest.raises(TableError, match="3 differences of table 't' are too large for float16"):
        this.flush()
    close(this)


def test_rows_that_are_set_owe_nothing() -> None:
    this = session(None, consistency="geo", k_steps=1, wire="bfloat16", prefetch=0)
    table = this.open(spec(dim=DIM))
    step(this, table, KEYS, np.full((60, DIM), 1 / 3))
    this.client.assign(table, KEYS, np.full((60, DIM), 7, np.float32))
    this.flush()
    assert (this.read(table, KEYS) == 7).all()
    step(this, table, KEYS, np.full((60, DIM), 1 / 3))
    this.restart(9)  # the servers have taken a snapshot up
    this.flush()
    assert (this.read(table, KEYS) == np.float32(7) - np.float32(0.333984375)).all()  # what was sent before
    close(this)


def test_row_state_goes_into_a_checkpoint_and_comes_back() -> None:
    def learn(this: object, table: object, seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(5):
            step(this, table, rng.integers(0, 60, 20), rng.standard_normal((20, DIM)), 0.1)  # type: ignore[arg-type]

    whole = session(None, consistency="geo", k_steps=3)
    table = whole.open(spec(dim=DIM, optimizer="adam"))
    learn(whole, table, 1)
    whole.flush()
    state, rows = whole.client.state(), whole.read(table, KEYS)
    learn(whole, table, 2)
    resumed = session(None, consistency="geo", k_steps=3)
    again = resumed.open(spec(dim=DIM, optimizer="adam"))
    resumed.client.assign(again, KEYS, rows)
    resumed.restart(5)
    resumed.client.load_state(state)
    learn(resumed, again, 2)
    assert resumed.read(again, KEYS).tobytes() == whole.read(table, KEYS).tobytes()
    other = session(None, consistency="geo", k_steps=3)
    other.open(spec(dim=DIM, optimizer="adagrad"))
    with pytest.raises(SnapshotError, match="row state of table 't' has shape"):
        other.client.load_state(state)
    for this in (whole, resumed, other):
        close(this)


def test_gradients_that_are_not_finite_are_named_and_nothing_is_sent() -> None:
    this = session(None, consistency="geo", k_steps=1)
    table = this.open(spec(dim=DIM))
    step(this, table, [1], np.ones((1, DIM)))
    step(this, table, [1], np.full((1, DIM), np.nan))
    with pytest.raises(TableError, match="3 NaN or infinite gradient values for table 't'"):
        this.flush()
    close(this)
