"""Whatever bytes arrive at a server's port, it closes that line with one clear line in its log, and goes on serving the others."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator

import frames
import numpy as np
import pytest
from frames import OPS, Peer, dial, frame, header, section
from servers import IMPATIENT, SECRET, Servers


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers(1, world_size=4, tcp=True, argv=("-c", IMPATIENT)) as started:
        yield started


@pytest.fixture(autouse=True)
def _others_are_served(servers: Servers) -> Iterator[None]:
    """A trainer that was there before the attack, and one that comes after it, get their rows; no trace of a bug was written."""
    with Peer(servers.addresses[0], SECRET, trainer=3, incarnation=time.time_ns()) as before:
        table = before.open("others", 2)
        yield
        for peer in (before, Peer(servers.addresses[0], SECRET, trainer=3, incarnation=time.time_ns())):
            assert (peer.pull([(table, 2, [1, 2])])[0] == 1).all()
            peer.line.close()
    assert "Traceback" not in servers.log()


@pytest.fixture
def new_lines(servers: Servers) -> Callable[[str], str]:
    """Return a function that waits for a text in what the log says from now on."""
    start = len(servers.log())

    def wait(text: str) -> str:
        end = time.monotonic() + 10
        while text not in servers.log()[start:]:
            assert time.monotonic() < end, f"never said {text!r}: {servers.log()[start:]}"
            time.sleep(0.01)
        return servers.log()[start:]

    return wait


def test_garbage_before_the_handshake(servers: Servers, new_lines: Callable[[str], str]) -> None:
    line = dial(servers.addresses[0])
    line.sendall(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n" + os.urandom(200))
    new_lines("closed a connection that has not proved the secret: these bytes are not fleet's protocol: they begin with b'GET '")
    line.close()


def test_garbage_after_the_handshake(servers: Servers, new_lines: Callable[[str], str]) -> None:
    with Peer(servers.addresses[0], SECRET, trainer=2) as peer:
        peer.line.sendall(os.urandom(64).replace(b"FLT1", b"XXXX"))
        assert peer.closed()
    new_lines("closed trainer 2: these bytes are not fleet's protocol")


@pytest.mark.parametrize("proved", [False, True])
def test_a_frame_that_announces_2_to_the_60_bytes(servers: Servers, new_lines: Callable[[str], str], proved: bool) -> None:
    before = _resident_bytes(servers)
    if proved:
        with Peer(servers.addresses[0], SECRET, trainer=2) as peer:
            peer.line.sendall(header(OPS["PUSH"], body_bytes=1 << 60, num_tables=1))
            assert peer.closed()
        log = new_lines(f"closed trainer 2: a body of {1 << 60} bytes is announced, at most {1 << 30} are taken here")
    else:
        line = dial(servers.addresses[0])
        line.sendall(header(OPS["PROOF"], body_bytes=1 << 60))
        log = new_lines(f"a body of {1 << 60} bytes is announced, at most 4096 are taken here")
        line.close()
    assert log.count("closed") == 1
    assert _resident_bytes(servers) - before < 50 << 20


def test_limits_that_the_document_gives(servers: Servers, new_lines: Callable[[str], str]) -> None:
    for name, op in (("body of PULL, ROWS, PUSH, ASSIGN", "PULL"), ("body of any other operation", "STATUS")):
        power = int(frames.LIMITS[name].removeprefix("2^").split()[0])
        with Peer(servers.addresses[0], SECRET, trainer=2) as peer:
            peer.line.sendall(header(OPS[op], body_bytes=(1 << power) + 1))
            assert peer.closed()
        new_lines(f"a body of {(1 << power) + 1} bytes is announced, at most {1 << power} are taken here")
    most = int(frames.LIMITS["sections of a frame"])
    with Peer(servers.addresses[0], SECRET, trainer=2) as peer:
        peer.line.sendall(header(OPS["PULL"], num_tables=most + 1))
        assert peer.closed()
    new_lines(f"{most + 1} tables in one frame, at most {most} are taken")


@pytest.mark.parametrize("sent", ["half a header", "half a body"])
def test_half_a_frame_then_silence(servers: Servers, new_lines: Callable[[str], str], sent: str) -> None:
    whole = frame("STATUS", b"{}" + b" " * 100)
    with Peer(servers.addresses[0], SECRET, trainer=2) as peer:
        peer.line.sendall(whole[: 30 if sent == "half a header" else 100])
        assert peer.closed()
    new_lines("closed trainer 2: it fell silent inside a frame")


def test_half_a_frame_then_the_end(servers: Servers, new_lines: Callable[[str], str]) -> None:
    with Peer(servers.addresses[0], SECRET, trainer=2) as peer:
        peer.line.sendall(frame("STATUS", b"{}")[:-1])
        peer.line.shutdown(socket.SHUT_WR)
        assert peer.closed()
    new_lines("closed trainer 2: the connection was closed by the other side")


def test_silence_before_the_proof(servers: Servers, new_lines: Callable[[str], str]) -> None:
    line = dial(servers.addresses[0])
    new_lines("closed a connection that has not proved the secret: it fell silent")
    line.close()


def test_a_wrong_secret_is_told_and_leaves_no_trace_of_the_right_one(servers: Servers, new_lines: Callable[[str], str]) -> None:
    with Peer(servers.addresses[0], "another secret") as peer:
        assert peer.refusal["kind"] == "ConfigError" and peer.refusal["what"] == "the job secret is wrong"
        assert "FLEET_SECRET" in peer.refusal["fix"]
        assert peer.closed()
    log = new_lines("closed a connection that has not proved the secret: the job secret is wrong")
    assert SECRET not in log and "another secret" not in log


def test_the_servers_own_proof_is_no_proof(servers: Servers, new_lines: Callable[[str], str]) -> None:
    with Peer(servers.addresses[0], SECRET, proof=bytes(32)) as peer:
        assert peer.refusal["what"] == "the job secret is wrong"
    new_lines("the job secret is wrong")


def test_a_proof_that_was_overheard_is_worth_nothing(servers: Servers) -> None:
    """The challenge differs each time."""
    challenges = []
    for _ in range(3):
        with Peer(servers.addresses[0], SECRET, trainer=2):
            line = dial(servers.addresses[0])
            line.recv(64, socket.MSG_WAITALL)
            challenges.append(line.recv(32, socket.MSG_WAITALL))
            line.close()
    assert len(set(challenges)) == 3


def test_a_rank_outside_the_job(servers: Servers, new_lines: Callable[[str], str]) -> None:
    with Peer(servers.addresses[0], SECRET, trainer=4) as peer:
        assert peer.refusal["kind"] == "ConfigError" and peer.refusal["what"] == "there is no trainer 4: this server works for 4"
        assert peer.closed()
    new_lines("there is no trainer 4")


def test_a_request_in_place_of_the_proof(servers: Servers, new_lines: Callable[[str], str]) -> None:
    line = dial(servers.addresses[0])
    line.sendall(frame("STATUS", b"{}"))
    new_lines("closed a connection that has not proved the secret: expected the proof of the job secret")
    line.close()


@pytest.mark.parametrize("lie, words", [
    (dict(version=2), "the other side speaks protocol version 2, this side 1"),
    (dict(crc=1), "the header is damaged (its checksum is wrong)"),
    (dict(magic=b"FLT2"), "these bytes are not fleet's protocol: they begin with b'FLT2'"),
])  # fmt: skip
def test_a_header_that_is_wrong(servers: Servers, new_lines: Callable[[str], str], lie: dict[str, object], words: str) -> None:
    with Peer(servers.addresses[0], SECRET, trainer=2) as peer:
        peer.line.sendall(header(OPS["STATUS"], **lie))
        assert peer.closed()
    new_lines(f"closed trainer 2: {words}")


def test_every_flipped_bit_of_a_header_is_noticed(servers: Servers) -> None:
    good = header(OPS["STATUS"], body_bytes=2)
    for bit in range(0, 8 * len(good), 37):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with Peer(servers.addresses[0], SECRET, trainer=2) as peer:
            peer.line.sendall(bad + b"{}")
            assert peer.closed(), f"bit {bit}"


class TestRefusedButTheLineGoesOn:
    """Frames that end where they say: the trainer is told what is wrong, and may send the next."""

    @pytest.fixture
    def peer(self, servers: Servers) -> Iterator[Peer]:
        with Peer(servers.addresses[0], SECRET, trainer=1, incarnation=time.time_ns()) as peer:
            self.table = peer.open("victim", 4)
            self.before = peer.pull([(self.table, 4, [1, 2, 3])])[0]
            yield peer
            np.testing.assert_array_equal(peer.pull([(self.table, 4, [1, 2, 3])])[0], self.before)

    def refused(self, peer: Peer, name: str, body: bytes, **fields: int) -> dict[str, str]:
        head, answer = peer.ask(name, body, **{"sequence": 1, "step": 1, **fields})
        assert head["op"] == OPS["ERROR"]
        return json.loads(answer)

    def test_an_unknown_operation(self, servers: Servers, new_lines: Callable[[str], str], peer: Peer) -> None:
        beyond = max(OPS.values()) + 1
        for number in (0, OPS["ROWS"], OPS["DONE"], beyond, 65535):
            peer.line.sendall(header(number, body_bytes=2, request=5) + b"{}")
            head, body = peer.receive()
            assert head["op"] == OPS["ERROR"] and head["request"] == 5
            assert json.loads(body)["what"].startswith(f"operation {number} is unknown")
        new_lines(f"refused a frame of trainer 1: operation {beyond} is unknown")

    @pytest.mark.parametrize("lies", [
        dict(num_keys=4), dict(num_keys=2), dict(num_keys=2**61), dict(num_keys=2**64 - 1), dict(dim=3), dict(dim=2**32 - 1),
        dict(content=1), dict(content=2), dict(content=0),
    ])  # fmt: skip
    def test_sections_that_do_not_fit_their_body(self, peer: Peer, lies: dict[str, int]) -> None:
        body = section(self.table, 4, [1, 2, 3], np.ones((3, 4)), 1.0, lies)
        for name in ("PUSH", "ASSIGN"):
            refused = self.refused(peer, name, body, num_tables=1)
            assert refused["kind"] in ("ConfigError", "TableError"), refused

    @pytest.mark.parametrize("num_tables", [0, 2, 4096])
    def test_another_number_of_sections(self, peer: Peer, num_tables: int) -> None:
        body = section(self.table, 4, [1, 2, 3], np.ones((3, 4)), 1.0)
        assert self.refused(peer, "PUSH", body, num_tables=num_tables)["kind"] == "ConfigError"
        assert self.refused(peer, "PULL", body[:50], num_tables=1)["kind"] == "ConfigError"

    def test_a_table_that_is_not_there(self, peer: Peer) -> None:
        for number in (99, 2**32 - 1):
            body = section(number, 4, [1], np.ones((1, 4)), 1.0)
            assert self.refused(peer, "PUSH", body, num_tables=1)["kind"] == "TableError"
            assert self.refused(peer, "ASSIGN", body, num_tables=1)["kind"] == "TableError"
            assert self.refused(peer, "PULL", section(number, 4, [1]), num_tables=1)["kind"] == "TableError"

    def test_another_dim_and_a_push_that_is_half_good(self, peer: Peer) -> None:
        good = section(self.table, 4, [1], np.ones((1, 4)), 1.0)
        wide = section(self.table, 8, [1], np.ones((1, 8)), 1.0)
        assert self.refused(peer, "PULL", section(self.table, 8, [1]), num_tables=1)["fix"] == "ask for keys with dim 4"
        assert self.refused(peer, "PUSH", good + wide, num_tables=2)["kind"] == "TableError"
        assert self.refused(peer, "ASSIGN", good + wide, num_tables=2)["kind"] == "TableError"

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_gradients_that_are_not_finite(self, peer: Peer, value: float) -> None:
        """Refused with table and count, also when the other table's part is fine; nothing moves."""
        other = peer.open("other victim", 2)
        gradient = np.ones((3, 4), np.float32)
        gradient[1, 2] = gradient[2, 0] = value
        body = section(other, 2, [5], np.ones((1, 2)), 1.0) + section(self.table, 4, [1, 2, 3], gradient, 1.0)
        what = self.refused(peer, "PUSH", body, num_tables=2)["what"]
        assert what == "2 NaN or infinite gradient values for table 'victim' from trainer 1; the table is unchanged"
        assert (peer.pull([(other, 2, [5])], create=False)[0] == 1).all()

    def test_a_learning_rate_that_is_not_finite(self, peer: Peer) -> None:
        body = section(self.table, 4, [1], np.ones((1, 4)), float("nan"))
        assert self.refused(peer, "PUSH", body, num_tables=1)["what"].startswith("learning rate nan for table 'victim'")

    @pytest.mark.parametrize("fields", [dict(sequence=0), dict(step=0), dict(step=2**63), dict(sequence=2**64 - 1)])
    def test_counters_out_of_range(self, peer: Peer, fields: dict[str, int]) -> None:
        body = section(self.table, 4, [1], np.ones((1, 4)), 1.0)
        assert "a sequence or step of" in self.refused(peer, "PUSH", body, num_tables=1, **fields)["what"]

    def test_rows_that_no_frame_can_hold(self, peer: Peer) -> None:
        wide = peer.open("wide", 65536)
        keys = np.arange(5000, dtype=np.uint64)
        what = self.refused(peer, "PULL", section(wide, 65536, keys), num_tables=1)["what"]
        assert what == f"{32 + 5000 * 65536 * 4} bytes of rows in one answer"

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"{}", b"[" * 100_000, b'{"spec": 3}', b'{"spec": {}}'])
    def test_json_that_is_none_or_lacks_fields(self, peer: Peer, body: bytes) -> None:
        assert self.refused(peer, "TABLE", body)["kind"] in ("ConfigError", "TableError")

    @pytest.mark.parametrize("changes", [
        dict(dim=0), dict(dim=-1), dict(dim=65537), dict(dim="x"), dict(dim=None), dict(dim=1 << 70),
        dict(name=""), dict(name=".."), dict(name="."), dict(name="é" * 100),
        dict(optimizer="lion"), dict(initializer="he"), dict(hyper={"beta1": 0.9}), dict(hyper=[1]),
        dict(init_args=[1.0]), dict(init_args=[float("nan"), 0]), dict(init_args=[1.0, 1.0]),
        dict(seed=-1), dict(seed=1 << 64), dict(vocabulary=-1),
        dict(optimizer="adam", hyper={"beta1": 1.5}), dict(optimizer="adagrad", hyper={"epsilon": float("nan")}),
    ])  # fmt: skip
    def test_specs_out_of_range_leave_no_table_behind(self, peer: Peer, changes: dict[str, object]) -> None:
        ask = {"spec": {**frames.SPEC, "name": "range", **changes}, "consistency": "async", "timeout_s": 20}
        assert self.refused(peer, "TABLE", json.dumps(ask).encode())["kind"] == "TableError"
        assert "range" not in peer.ask_json("STATUS", {})["tables"]
        table = peer.open("after a refusal", 3)  # the numbers of tables and of their rows still agree
        assert peer.pull([(table, 3, [1])])[0].shape == (1, 3)

    @pytest.mark.parametrize("ask", [dict(consistency="bsp"), dict(consistency="sync"), dict(timeout_s=21), dict(timeout_s=-1),
                                     dict(timeout_s="x"), dict(consistency=None)])  # fmt: skip
    def test_another_consistency_than_the_jobs(self, peer: Peer, ask: dict[str, object]) -> None:
        asked = {"spec": frames.SPEC, "consistency": "async", "timeout_s": 20, **ask}
        refused = self.refused(peer, "TABLE", json.dumps(asked).encode())
        assert refused["kind"] == "ConfigError"

    @pytest.mark.parametrize("changes, words", [
        (dict(dim=8), "dim 4, not 8"), (dict(optimizer="adagrad"), "optimizer 'sgd', not 'adagrad'"),
        (dict(seed=8), "seed 7, not 8"),
    ])  # fmt: skip
    def test_another_spec_than_the_other_trainers(self, peer: Peer, changes: dict[str, object], words: str) -> None:
        ask = {"spec": {**frames.SPEC, "name": "victim", **changes}, "consistency": "async", "timeout_s": 20}
        refused = self.refused(peer, "TABLE", json.dumps(ask).encode())
        assert refused["kind"] == "TableError" and words in refused["what"]
        assert refused["fix"].startswith("give every trainer the same")

    @pytest.mark.parametrize("directory", [3, None, "relative", "", ["/tmp"]])
    def test_a_directory_that_is_no_absolute_path(self, peer: Peer, directory: object) -> None:
        save = {"snapshot": "s", "directory": directory, "parent": None, "delta": False}
        assert "directory must be an absolute path" in self.refused(peer, "SAVE", json.dumps(save).encode())["what"]
        load = {"chain": [{"directory": directory, "manifest": {}}], "keep_state": True}
        assert "no absolute path" in self.refused(peer, "LOAD", json.dumps(load).encode())["what"]
        load = {"chain": [], "keep_state": True}
        assert "a chain of no snapshots" in self.refused(peer, "LOAD", json.dumps(load).encode())["what"]

    @pytest.mark.parametrize("ask", [{}, {"directory": "/nowhere", "manifest": {}}, {"directory": "/x", "manifest": {"tables": 5}}])
    def test_a_manifest_that_is_none(self, peer: Peer, ask: dict[str, object]) -> None:
        assert self.refused(peer, "LOAD", json.dumps(ask).encode())["kind"] in ("ConfigError", "SnapshotError")


def test_a_storm_of_connections_that_never_prove_the_secret(servers: Servers, new_lines: Callable[[str], str]) -> None:
    """200 silent lines where 64 may wait: the oldest make room, a trainer that comes behind them is served at once."""
    before = _resident_bytes(servers)
    lines = [dial(servers.addresses[0]) for _ in range(200)]
    start = time.monotonic()
    with Peer(servers.addresses[0], SECRET, trainer=2, incarnation=time.time_ns()) as peer:
        table = peer.open("storm", 2)
        assert (peer.pull([(table, 2, [1])])[0] == 1).all()
    assert time.monotonic() - start < 5
    end = time.monotonic() + 5
    while _threads(servers) > 64 + 20:
        assert time.monotonic() < end, "lines that made room have to go"
        time.sleep(0.02)
    assert _resident_bytes(servers) - before < 100 << 20
    for line in lines:
        line.close()
    end = time.monotonic() + 10
    while servers.log().count("closed a connection that has not proved the secret") < 200:
        assert time.monotonic() < end, "one line for each"
        time.sleep(0.05)


def test_lines_that_hang_up_at_once(servers: Servers) -> None:
    for _ in range(200):
        line = dial(servers.addresses[0])
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() resets the line
        line.close()


def test_no_descriptors_left() -> None:
    """A server that may open 40 files more: it says so, and accepts again when some are free."""
    limit = "import sys, resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))"
    patient = IMPATIENT.replace("import sys", limit).replace("= 1.0,", "= 60.0,")
    with Servers(1, argv=("-c", patient)) as servers:
        lines = [dial(servers.addresses[0]) for _ in range(60)]
        servers.until(0, "cannot accept a connection: [Errno 24] Too many open files")
        for line in lines:
            line.close()
        with Peer(servers.addresses[0], SECRET) as peer:
            assert (peer.pull([(peer.open(), 4, [1])])[0] == 1).all()


def _resident_bytes(servers: Servers) -> int:
    with open(f"/proc/{servers.processes[0].pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _threads(servers: Servers) -> int:
    return len(os.listdir(f"/proc/{servers.processes[0].pid}/task"))


def test_a_consistency_that_is_none_is_refused_and_leaves_no_trace() -> None:
    wrong = [{"consistency": "bounded", "staleness": -1}, {"consistency": "eventual"}, {"timeout_s": 0}, {"timeout_s": 1e999}]
    with Servers(1) as servers, Peer(servers.addresses[0], SECRET) as peer:
        for lie in wrong:
            asked = {"spec": {**frames.SPEC, "name": "t"}, "consistency": "async", "timeout_s": 20, **lie}
            refused = peer.ask_json("TABLE", asked)
            assert refused["kind"] == "ConfigError" and "no consistency" in refused["what"], (lie, refused)
        assert peer.open("t") == 0
