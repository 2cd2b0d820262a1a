"""Rows and gradients in 16 bits on the wire: rounded once on one side to what NumPy says, widened on the other, half the bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import frames
import numpy as np
import paddle
import pytest
from frames import HEADER, OPS, Peer, bits, section, widened
from proxy import Fault, Proxy
from servers import SECRET, Servers, spec
from sessions import close, session, step

from fleet import DistributedStrategy
from fleet.errors import ConfigError, TableError
from fleet.parameter_server.client import Client, RowGradient, Table
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.dense import Dense
from fleet.parameter_server.link import LocalLink
from fleet.parameter_server.service import Service
from fleet.parameter_server.spec import WEIGHTS
from fleet.parameter_server.wire import DTYPES

HALVES = ("bfloat16", "float16")
KEYS = np.array([0, 5, 2**40, 2**64 - 1, 77], np.uint64)
DIM = 3


def rounded(values: Any, dtype: str) -> np.ndarray:
    """What comes out at the other end: NumPy's float16, and integer arithmetic for bfloat16."""
    return np.asarray(widened(bits(values, dtype).tobytes(), dtype)).reshape(np.shape(values))


def awkward(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers of many sizes, with ties, zeros and ones too small for float16."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 10.0 ** rng.integers(-9, 4, shape)
    values.flat[:4] = [0.0, 1 + 2.0**-8, 1 + 3 * 2.0**-11, -(1 + 2.0**-11)]
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers(2) as started:
        yield started


@pytest.fixture(params=["servers", "own process"])
def make(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Any]:
    """Return a function that makes a client of a dtype."""
    made: list[Client] = []
    local = Service(0, 1, 1)
    lives = iter(range(1, 100))

    def client(dtype: str) -> Client:
        life = next(_LIVES)
        if request.param == "servers":
            return servers.client(0, "async", incarnation=life, dtype=dtype)
        made.append(Client([LocalLink(local, next(lives))], Mode("async"), 20, dtype))
        return made[-1]

    yield client
    for one in made:
        one.close()


_LIVES = iter(range(1, 1000))


def assign(client: Client, table: Table, values: np.ndarray) -> None:
    client.assign(table, KEYS, values)


def pull(client: Client, table: Table) -> tuple[Any, np.ndarray]:
    (found,) = client.pull([(table, KEYS)], create=True).result(20)
    return found, found.rows[found.inverse]


def push(client: Client, table: Table, gradient: np.ndarray) -> None:
    found, _ = pull(client, table)
    by_key = np.empty_like(gradient)
    by_key[found.inverse] = gradient
    client.push([(table, RowGradient(found.keys, found.counts, by_key))], 0.5)
    client.flush()


@pytest.mark.parametrize("dtype", ["float32", *HALVES])
def test_rows_and_gradients_are_rounded_once(make: Any, dtype: str) -> None:
    client = make(dtype)
    table = client.open(spec(f"values {dtype}", DIM))
    values, gradient = awkward(0, (5, DIM)), awkward(1, (5, DIM))
    assign(client, table, values)
    np.testing.assert_array_equal(client.read(table, KEYS), values)  # uploads and whole tables stay as they are
    np.testing.assert_array_equal(pull(client, table)[1], rounded(values, dtype))
    push(client, table, gradient)
    np.testing.assert_array_equal(client.read(table, KEYS), values - np.float32(0.5) * rounded(gradient, dtype))
    # What the caller handed in is its own still.
    np.testing.assert_array_equal(gradient, awkward(1, (5, DIM)))


def test_a_gradient_that_float16_cannot_hold_is_refused(make: Any) -> None:
    client = make("float16")
    table = client.open(spec("overflows", DIM))
    for wrong in (65520.0, -1e30, np.nan):
        gradient = np.ones((5, DIM), np.float32)
        gradient[2, 1] = wrong
        other = make("float16")
        again = other.open(table.spec)
        with pytest.raises(TableError, match=r"1 NaN or infinite gradient values for table 'overflows'.*65504") as refused:
            push(other, again, gradient)
        assert "bfloat16" in refused.value.fix and "loss scale" in refused.value.fix and refused.value.at.startswith("server ")
    reader = make("float32")
    assert (reader.read(reader.open(table.spec), KEYS)[2] == 1).all()
    wide = make("bfloat16")
    push(wide, wide.open(table.spec), np.full((5, DIM), 1e30, np.float32))


def test_a_row_that_float16_cannot_hold_is_refused_and_the_line_goes_on(make: Any) -> None:
    client = make("float16")
    table, other = client.open(spec("large rows", 40_000)), client.open(spec("small rows", DIM))
    values = np.ones((5, 40_000), np.float32)  # several times what is sent at once
    values[:, -1] = 65520
    client.assign(table, KEYS, values)
    with pytest.raises(TableError, match=r"weights of table 'large rows' are not finite as float16") as refused:
        client.pull([(other, KEYS), (table, KEYS)], create=True).result(20)
    assert "bfloat16" in refused.value.fix
    assert (pull(client, other)[1] == 1).all()
    np.testing.assert_array_equal(client.read(table, KEYS), values)


@pytest.mark.parametrize("stored, beyond", [("float16", 65520.0), ("bfloat16", 3.4e38), ("float32", None)])
def test_weights_that_are_not_finite_are_not_assigned(make: Any, stored: str, beyond: float | None) -> None:
    client = make("float32")
    table = client.open(spec(f"assigned {stored}", DIM, weights=stored))
    edge = np.full((5, DIM), 65519.0 if stored == "float16" else 3e38, np.float32)
    assign(client, table, edge)
    before = client.read(table, KEYS)
    assert np.isfinite(before).all()
    cases = [(np.nan, "NaN or infinite weights"), (-np.inf, "NaN or infinite weights"), (beyond, f"too large for the {stored}")]
    for wrong, said in cases:
        if wrong is not None:
            values = np.full((5, DIM), 2.0, np.float32)
            values[:, 1] = wrong
            with pytest.raises(TableError, match="for table 'assigned") as refused:
                assign(client, table, values)
            assert said in refused.value.what and refused.value.fix and refused.value.at.startswith("server ")
    np.testing.assert_array_equal(client.read(table, KEYS), before)


def test_sync_adds_in_float32_after_widening() -> None:
    """Whoever comes first: the sum is that of the widened gradients in the order of the ranks."""
    gradients = [awkward(10 + rank, (5, DIM)) for rank in range(2)]
    found = []
    for order in ((0, 1), (1, 0)):
        with Servers(2, world_size=2) as servers:
            clients = [servers.client(rank, "sync", dtype="bfloat16") for rank in range(2)]
            tables = [client.open(spec("shared", DIM)) for client in clients]
            for rank in order:
                push(clients[rank], tables[rank], gradients[rank])
            rows = [pull(clients[rank], tables[rank])[1] for rank in range(2)]
            whole = clients[0].read(tables[0], KEYS)
            np.testing.assert_array_equal(rows[0], rows[1])
            np.testing.assert_array_equal(rows[0], rounded(whole, "bfloat16"))
            found.append(whole)
    total = rounded(gradients[0], "bfloat16") + rounded(gradients[1], "bfloat16")
    np.testing.assert_array_equal(found[0], np.float32(1) - np.float32(0.5) * total)
    np.testing.assert_array_equal(found[0], found[1])


def test_frames_of_every_dtype_made_from_the_document(servers: Servers) -> None:
    with Peer(servers.addresses[0], SECRET, incarnation=next(_LIVES)) as peer:
        dtypes = list(frames.DTYPES)
        assert dtypes == ["float32", "bfloat16", "float16"]
        tables = [peer.open(f"framed {dtype}", DIM) for dtype in dtypes]
        start, gradient = awkward(2, (5, DIM)), awkward(3, (5, DIM))
        for sequence, table in enumerate(tables, 1):
            assert peer.ask("ASSIGN", section(table, DIM, KEYS, start), num_tables=1, sequence=sequence)[0]["op"] == OPS["DONE"]
        wanted = [(table, DIM, KEYS) for table in tables]
        for rows, dtype in zip(peer.pull(wanted, dtypes=dtypes), dtypes, strict=True):
            np.testing.assert_array_equal(rows, rounded(start, dtype))
        parts = [section(t, DIM, KEYS, gradient, 0.5, dtype=d) for t, d in zip(tables, dtypes, strict=True)]
        assert peer.push(parts, sequence=10, step=1) == {}
        for rows, dtype in zip(peer.pull(wanted), dtypes, strict=True):
            np.testing.assert_array_equal(rows, start - np.float32(0.5) * rounded(gradient, dtype))


def test_a_dtype_that_is_none_is_refused_and_the_line_goes_on(servers: Servers) -> None:
    with Peer(servers.addresses[0], SECRET, incarnation=next(_LIVES)) as peer:
        table = peer.open("no such dtype", DIM)
        ones = np.ones((1, DIM))
        for number in (3, 255, 2**32 - 1):
            for name, values in (("PULL", None), ("PUSH", ones), ("ASSIGN", ones)):
                body = section(table, DIM, [1], values, lies={"dtype": number})
                refused = peer.ask(name, body, num_tables=1, sequence=1, step=1)
                assert refused[0]["op"] == OPS["ERROR"] and f"no dtype {number}".encode() in refused[1]
        for dtype in HALVES:
            refused = peer.ask("ASSIGN", section(table, DIM, [1], ones, dtype=dtype), num_tables=1, sequence=1)
            assert refused[0]["op"] == OPS["ERROR"] and b"ASSIGN takes float32" in refused[1]
        assert (peer.pull([(table, DIM, [1])])[0] == 1).all()


class Counts(Fault):
    """Counts the bytes of bodies that go by, by operation."""

    def __init__(self) -> None:
        super().__init__(share=0)
        self.bytes: dict[int, int] = {}

    def up(self, whole: bytes, op: int, send: Any) -> None:
        with self._guard:
            self.bytes[op] = self.bytes.get(op, 0) + len(whole) - HEADER.size
        send(whole)

    def down(self, whole: bytes, op: int, send: Any) -> None:
        self.up(whole, op, send)


def test_a_step_takes_half_the_bytes() -> None:
    """Through the strategy's field: values halve to the byte, keys and heads stay."""
    found = {}
    ids = np.arange(1000)
    for wire in ("float32", *HALVES):
        with Servers(1) as servers, Proxy(servers.addresses[0], counts := Counts()) as proxy:
            this = session(servers, through=(proxy.address,), wire=wire)
            table = this.open(spec("counted", 64))
            step(this, table, ids, np.ones((1000, 64)))
            this.flush()
            close(this)
            found[wire] = counts.bytes
    values = 1000 * 64 * 4
    for wire in HALVES:
        assert found["float32"][OPS["ROWS"]] == 32 + values and found[wire][OPS["ROWS"]] == 32 + values // 2
        assert found["float32"][OPS["PUSH"]] == 32 + 8000 + values and found[wire][OPS["PUSH"]] == 32 + 8000 + values // 2
        assert found[wire][OPS["PULL"]] == found["float32"][OPS["PULL"]]


def test_one_trainer_alone_trains_as_it_would_with_servers() -> None:
    """The same bits over a socket and in the trainer's own process, after steps whose gradients depend on the rows."""
    ends = []
    with Servers(2) as servers:
        for where in (servers, None):
            this = session(where, wire="bfloat16")
            table = this.open(spec("alike", DIM, "adagrad", initializer="normal", init_args=(0.0, 1.0)))
            for number in range(5):
                ids = np.arange(20) * 7 % (11 + number)
                step(this, table, ids, lambda rows: rows * np.float32(0.3) + np.float32(0.1), rate=0.1)
            ends.append(this.read(table, np.arange(16, dtype=np.uint64)))
            close(this)
    assert ends[0].tobytes() == ends[1].tobytes()


def test_many_trainers_push_at_once() -> None:
    """Small integers are exact in 16 bits: nothing is lost or counted twice."""
    with Servers(2, world_size=3) as servers:
        clients = [servers.client(rank, "async", dtype=HALVES[rank % 2]) for rank in range(3)]

        def train(client: Client) -> None:
            table = client.open(spec("sum", DIM))
            for _ in range(20):
                push(client, table, np.full((5, DIM), 2, np.float32))

        threads = [threading.Thread(target=train, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert (clients[0].read(clients[0].tables["sum"], KEYS) == 1 - 60).all()


def test_dense_parameters_stay_float32(servers: Servers) -> None:
    layer = paddle.nn.Linear(7, 5)
    this = session(servers, incarnation=next(_LIVES), consistency="async", wire="bfloat16", dense="server")
    optimizer = paddle.optimizer.SGD(0.1, parameters=layer.parameters())
    dense = Dense(this, list(layer.named_parameters()), optimizer, 1, 1)
    before = layer.weight.numpy().copy()
    dense.upload()
    dense.pull()
    assert layer.weight.numpy().tobytes() == before.tobytes() != rounded(before, "bfloat16").tobytes()
    this.client.flush()


def test_the_strategy_says_it() -> None:
    assert DistributedStrategy(parameter_server=True).parameter_server["wire"] == "float32"
    assert WEIGHTS == DTYPES == tuple(frames.DTYPES)
    with pytest.raises(ConfigError, match="wire"):
        DistributedStrategy(parameter_server={"wire": "int8"})
    assert DistributedStrategy(parameter_server={"wire": "bfloat16", "consistency": "geo"}).effective()
