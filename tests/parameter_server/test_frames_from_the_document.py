"""docs/wire.md is enough to talk to a server: frames.py is made from it alone, and what comes back is what NumPy says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import frames
import numpy as np
import pytest
from frames import Peer, frame, section
from servers import SECRET, Servers, spec

import fleet


@pytest.fixture(scope="module", params=["unix", "tcp"])
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    with Servers(2, world_size=2, tcp=request.param == "tcp") as started:
        yield started


@pytest.fixture
def peer(servers: Servers) -> Iterator[Peer]:
    with Peer(servers.addresses[0], SECRET) as connected:
        yield connected


def test_the_independent_side_knows_nothing_of_fleet() -> None:
    tree = ast.parse(Path(frames.__file__).read_text())
    imported = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    imported += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert len(imported) > 5 and not [name for name in imported if name.startswith("fleet")]


def test_the_heads_have_the_sizes_that_the_text_gives() -> None:
    assert "a header of 64 bytes" in frames.TEXT and frames.HEADER.size == 64
    assert "a head of 32 bytes" in frames.TEXT and frames.SECTION.size == 32


def test_the_example_is_the_frame_that_the_text_describes(servers: Servers) -> None:
    found = re.search(r"```hex\n(.*?)```", frames.TEXT, re.S)
    assert found is not None
    example = bytes.fromhex(found[1])
    body = section(2, 3, [5, 2**64 - 1])
    assert example == frame("PULL", body, flags=1, step=4, num_tables=1, request=7)
    with Peer(servers.addresses[0], SECRET) as peer:
        for name in "abc":
            number = peer.open(f"example {name}", 3)
        peer.line.sendall(example.replace(b"\2\0\0\0\1\0\0\0", number.to_bytes(4, "little") + b"\1\0\0\0"))
        head, rows = peer.receive()
        assert head["request"] == 7 and head["op"] == frames.OPS["ROWS"]
        np.testing.assert_array_equal(np.frombuffer(rows, "<f4", 6, 32), np.ones(6))


def test_what_the_server_says_of_itself(peer: Peer) -> None:
    life = peer.about.pop("life")
    assert isinstance(life, str) and life
    assert peer.about == {"server": 0, "num_servers": 2, "world_size": 2, "fleet": fleet.__version__}


def test_pull_push_pull(peer: Peer) -> None:
    """SGD in float32: row = 1 - rate * gradient, for two tables of odd and even dim in one message."""
    a, b = peer.open("odd", 3), peer.open("even", 8)
    rng = np.random.default_rng(0)
    keys_a, keys_b = np.array([5, 2**64 - 1, 0], np.uint64), rng.integers(0, 2**64, 1000, dtype=np.uint64)
    first = peer.pull([(a, 3, keys_a), (b, 8, keys_b)])
    np.testing.assert_array_equal(first[0], np.ones((3, 3), np.float32))
    ga, gb = rng.standard_normal((3, 3)).astype(np.float32), rng.standard_normal((1000, 8)).astype(np.float32)
    assert peer.push([section(a, 3, keys_a, ga, 0.5), section(b, 8, keys_b, gb, 0.25)], sequence=1, step=1) == {}
    second = peer.pull([(b, 8, keys_b), (a, 3, keys_a)])
    np.testing.assert_array_equal(second[0], np.float32(1) - np.float32(0.25) * gb)
    np.testing.assert_array_equal(second[1], np.float32(1) - np.float32(0.5) * ga)


def test_repeated_keys_and_no_keys(peer: Peer) -> None:
    a, b = peer.open("repeats", 1), peer.open("nothing", 2)
    rows = peer.pull([(a, 1, [9, 9, 9]), (b, 2, [])])
    assert rows[0].shape == (3, 1) and rows[1].shape == (0, 2)
    assert peer.pull([]) == []


def test_a_pull_without_the_flag_makes_no_row(peer: Peer) -> None:
    table = peer.open("read only", 2)
    assert (peer.pull([(table, 2, [1, 2])], create=False)[0] == 1).all()
    assert peer.ask_json("STATUS", {})["tables"]["read only"]["rows"] == 0
    peer.pull([(table, 2, [1, 2])])
    assert peer.ask_json("STATUS", {})["tables"]["read only"]["rows"] == 2


def test_assign_sets_rows(peer: Peer) -> None:
    table = peer.open("assigned", 2)
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    body = section(table, 2, [1, 2, 3], values)
    head, _ = peer.ask("ASSIGN", body, num_tables=1, sequence=100)
    assert head["op"] == frames.OPS["DONE"]
    np.testing.assert_array_equal(peer.pull([(table, 2, [3, 1, 2])])[0], values[[2, 0, 1]])


def test_the_same_push_again_counts_once_and_an_earlier_life_is_refused(servers: Servers) -> None:
    address = servers.addresses[1]
    with Peer(address, SECRET, trainer=1, incarnation=20) as peer:
        table = peer.open("once", 2)
        part = section(table, 2, [1], np.ones((1, 2)), 1.0)
        for _ in range(3):
            assert peer.push([part], sequence=4, step=1) == {}
        assert (peer.pull([(table, 2, [1])])[0] == 0).all()
        assert peer.push([part], sequence=3, step=1) == {}, "an older one counted long ago"
        assert (peer.pull([(table, 2, [1])])[0] == 0).all()
    with Peer(address, SECRET, trainer=1, incarnation=21) as peer:
        assert peer.push([part], sequence=1, step=1) == {}, "a new life begins to count anew"
        assert (peer.pull([(table, 2, [1])])[0] == -1).all()
    with Peer(address, SECRET, trainer=1, incarnation=20) as peer:
        refused = peer.push([part], sequence=9, step=1)
        assert refused["kind"] == "ConfigError" and "trainer 1 was started again" in refused["what"]
        assert (peer.pull([(table, 2, [1])])[0] == -1).all()


def test_who_speaks_is_settled_in_the_handshake(servers: Servers) -> None:
    with Peer(servers.addresses[1], SECRET, trainer=0, incarnation=5) as peer:
        table = peer.open("mine", 2)
        part = section(table, 2, [1], np.ones((1, 2)), 1.0)
        for claimed in (0, 1, 7):  # as if from several trainers and lives: still one push of one trainer
            peer.ask("PUSH", part, num_tables=1, sequence=1, step=1, trainer=claimed, incarnation=claimed)
        assert (peer.pull([(table, 2, [1])])[0] == 0).all()


def test_errors_carry_four_strings_and_the_request(peer: Peer) -> None:
    table = peer.open("refusals", 2)
    refused = peer.push([section(table, 2, [1], [[np.nan, 1]], 1.0)], sequence=2**40, step=1)
    assert set(refused) == {"kind", "what", "at", "fix"} and all(isinstance(v, str) for v in refused.values())
    assert refused["kind"] == "TableError" and "1 NaN or infinite" in refused["what"] and "'refusals'" in refused["what"]
    assert refused["at"] == "server 0"
    assert (peer.pull([(table, 2, [1])])[0] == 1).all()


def test_a_key_is_held_by_the_server_that_the_document_computes(servers: Servers) -> None:
    """Keys that a real client made rows of are spread over the servers as the recipe says."""
    client = servers.client(rank=0, mode="async", incarnation=99)
    table = client.open(spec("spread", 4))
    keys = np.random.default_rng(1).integers(0, 2**64, 400, dtype=np.uint64)
    pulled = client.pull([(table, keys)], create=True).result()[0]
    shards = [frames.shard_of(int(k), "spread") for k in pulled.keys]
    expected = [sum(s * 1024 // 2 <= shard < (s + 1) * 1024 // 2 for shard in shards) for s in range(2)]
    assert pulled.counts.tolist() == expected and min(expected) > 0
    ends = expected[0]
    assert max(shards[:ends]) < 512 <= min(shards[ends:])
