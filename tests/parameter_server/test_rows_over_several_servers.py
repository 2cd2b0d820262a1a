"""A trainer's client: keys go to their servers in one message each, whatever the dim, the ids and the number of servers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import frames
import numpy as np
import pytest
from frames import OPS
from proxy import Fault, Proxy, Send
from servers import Servers, spec

from fleet.errors import ConfigError, TableError
from fleet.parameter_server.client import Client, Pulled, RowGradient, Table

NAMES = {number: name for name, number in OPS.items()}


class Counts(Fault):
    """Lets everything through and counts the trainer's frames."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: Counter[str] = Counter()

    def up(self, whole: bytes, op: int, send: Send) -> None:
        self.frames[NAMES[op]] += 1
        send(whole)


class Job:
    """A client and, for each of its servers, the count of messages."""

    def __init__(self, num_servers: int, stack: ExitStack) -> None:
        self.servers = stack.enter_context(Servers(num_servers))
        self.counts = [Counts() for _ in range(num_servers)]
        proxies = [stack.enter_context(Proxy(a, c)) for a, c in zip(self.servers.addresses, self.counts, strict=True)]
        self.client: Client = self.servers.client(through=tuple(p.address for p in proxies))

    def sent(self) -> list[dict[str, int]]:
        """The messages to each server since the last call."""
        found = [dict(c.frames) for c in self.counts]
        for count in self.counts:
            count.frames.clear()
        return found


@pytest.fixture(scope="module", params=[1, 2, 3])
def job(request: pytest.FixtureRequest) -> Iterator[Job]:
    with ExitStack() as stack:
        yield Job(request.param, stack)


def gradient(pulled: Pulled, values: np.ndarray) -> RowGradient:
    merged = np.zeros_like(pulled.rows)
    np.add.at(merged, pulled.inverse, values)
    return RowGradient(pulled.keys, pulled.counts, merged)


def initial(table: Table, ids: np.ndarray) -> np.ndarray:
    """Rows of an in-process table of the same spec: initial values come from (seed, table, id) alone."""
    from fleet.parameter_server import native

    out = np.empty((len(ids), table.spec.dim), np.float32)
    table.spec.make(native.load()).pull(ids, out, False)
    return out


@pytest.mark.parametrize("dim", [1, 8, 17, 1000])
def test_pull_push_pull(job: Job, dim: int) -> None:
    """Repeated ids of the whole range; SGD in NumPy."""
    table = job.client.open(spec(f"dim {dim}", dim, initializer="normal", init_args=(0.0, 1.0)))
    rng = np.random.default_rng(dim)
    ids = rng.integers(0, 2**64, 300, dtype=np.uint64)[rng.integers(0, 300, 500)]
    ids[:4] = [0, 2**64 - 1, 2**63, 2**64 - 1]
    pulled = job.client.pull([(table, ids)], create=True).result(20)[0]
    np.testing.assert_array_equal(pulled.keys[pulled.inverse], ids)
    assert len(pulled.keys) == len(np.unique(ids)) and pulled.counts.sum() == len(pulled.keys)
    np.testing.assert_array_equal(pulled.rows, initial(table, pulled.keys))
    values = rng.standard_normal((500, dim)).astype(np.float32)
    part = gradient(pulled, values)
    job.client.push([(table, part)], 0.5)
    again = job.client.pull([(table, ids[::-1].copy())], create=True).result(20)[0]
    expected = pulled.rows - np.float32(0.5) * part.values
    np.testing.assert_array_equal(again.rows[again.inverse], expected[pulled.inverse[::-1]])


def test_keys_come_grouped_by_the_server_that_holds_them(job: Job) -> None:
    n = len(job.counts)
    table = job.client.open(spec("grouped"))
    ids = np.random.default_rng(0).integers(0, 2**64, 500, dtype=np.uint64)
    pulled = job.client.pull([(table, ids)], create=True).result(20)[0]
    homes = [next(s for s in range(n) if s * 1024 // n <= shard < (s + 1) * 1024 // n)
             for shard in (frames.shard_of(int(k), "grouped") for k in pulled.keys)]  # fmt: skip
    assert homes == sorted(homes) and [homes.count(s) for s in range(n)] == pulled.counts.tolist()
    rows = [status["tables"]["grouped"]["rows"] for status in job.client.status()]
    assert rows == pulled.counts.tolist()


def test_one_message_a_server_asks_for_all_tables_and_one_pushes_them(job: Job) -> None:
    tables = [job.client.open(spec(f"together {i}", dim)) for i, dim in enumerate([1, 4, 7])]
    ids = np.arange(1000, dtype=np.uint64)
    job.sent()
    pulled = job.client.pull([(t, ids) for t in tables], create=True).result(20)
    assert job.sent() == [{"PULL": 1}] * len(job.counts)
    job.client.push([(t, gradient(p, np.ones((1000, t.spec.dim), np.float32))) for t, p in zip(tables, pulled, strict=True)], 1.0)
    job.client.flush()
    assert job.sent() == [{"PUSH": 1}] * len(job.counts)
    for table in tables:
        assert (job.client.read(table, ids) == 0).all()


def test_nothing_to_ask_and_nothing_to_push(job: Job) -> None:
    table, none = job.client.open(spec("empty", 3)), np.empty(0, np.uint64)
    pulled = job.client.pull([(table, none)], create=True).result(20)[0]
    assert pulled.rows.shape == (0, 3) and pulled.inverse.shape == (0,)
    job.client.push([(table, gradient(pulled, np.empty((0, 3), np.float32)))], 1.0)
    job.client.push([], 1.0)
    assert job.client.read(table, none).shape == (0, 3)
    job.client.assign(table, none, np.empty((0, 3), np.float32))
    assert sum(s["tables"]["empty"]["rows"] for s in job.client.status()) == 0


def test_a_refused_pull_leaves_the_lines_usable(job: Job) -> None:
    """Every server refuses: all answers are read, so that none is taken for the next one's."""
    table = job.client.open(spec("usable"))
    wrong = Table(table.spec._replace(dim=9), table.numbers, table.unique, table.rate)
    for _ in range(2):
        with pytest.raises(TableError, match="a pull of dim 9"):
            job.client.pull([(wrong, np.arange(50, dtype=np.uint64))], create=True).result(20)
        assert (job.client.read(table, np.arange(50, dtype=np.uint64)) == 1).all()


def test_uploads_and_reads_of_many_frames(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into frames of bounded size (here 8 KiB), in any order of keys."""
    monkeypatch.setattr("fleet.parameter_server.client.FRAME_ROWS_BYTES", 8192)
    table = job.client.open(spec("many frames", 5))
    keys = np.random.default_rng(3).permutation(3000).astype(np.uint64)
    values = np.random.default_rng(4).standard_normal((3000, 5)).astype(np.float32)
    job.client.assign(table, keys, values)
    np.testing.assert_array_equal(job.client.read(table, keys), values)
    with pytest.raises(ConfigError, match="a key is assigned twice"):
        job.client.assign(table, np.array([1, 1], np.uint64), values[:2])


def test_a_forked_child_does_not_disturb_its_parents_lines(job: Job) -> None:
    table = job.client.open(spec("forked"))
    child = os.fork()
    if child == 0:
        job.client.forget()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (job.client.read(table, np.arange(50, dtype=np.uint64)) == 1).all()
