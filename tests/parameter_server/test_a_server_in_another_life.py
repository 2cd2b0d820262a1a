"""A server that was started again: taken up where the job carries on, with what was lost said; else nobody talks to it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from servers import IMPATIENT, SECRET, Servers, spec, stop

from fleet import logger, recovery
from fleet.errors import ConfigError, PeerLost, SnapshotError
from fleet.parameter_server import watched, wire
from fleet.parameter_server.client import Client, RowGradient
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.ledger import MAX_ENTRIES, Ledger
from fleet.parameter_server.link import SocketLink
from fleet.parameter_server.session import _agree_on_servers
from fleet.parameter_server.snapshot import trainer
from fleet.parameter_server.tables import Gradient

KEYS = np.arange(1, 9, dtype=np.uint64)


def push(client: Client, value: float = 1.0) -> None:
    """Push ``value`` for every key, as one step of rate 1: each row loses it."""
    table = client.tables["t"]
    keys, _, counts = table.unique.unique(KEYS, client.server_of_shard, len(client._links))
    client.push([(table, RowGradient(keys, counts, np.full((len(keys), 4), value, np.float32)))], 1.0)
    client.flush()


def value(client: Client) -> set[float]:
    """The values that rows have."""
    return set(client.read(client.tables["t"], KEYS)[:, 0].tolist())


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the links warn of."""
    found: list[str] = []
    monkeypatch.setattr(logger, "warning", found.append)
    return found


@pytest.fixture
def mortal(tmp_path: Path) -> Any:
    """Two servers that are started again, and the directory of their run."""
    with Servers(2, env={"FLEET_LOG_DIR": str(tmp_path), "FLEET_SERVER_RESTARTS": "3"}) as servers:
        yield servers


def carrying_on(servers: Servers) -> Client:
    client = Client(servers.links(return_s=60), Mode("async"), 20)  # on a busy machine a start takes long
    servers._clients.append(client)
    client.open(spec("other", dim=2))
    client.open(spec())
    return client


def save(client: Client, tmp_path: Path) -> None:
    """Make a snapshot, and note it in the run as a checkpoint's."""
    trainer.save(client, str(tmp_path / "ckpt/tables"))
    recovery.Recovery(str(tmp_path), 0, False).plan(on_server_loss="carry_on", checkpoint=str(tmp_path / "ckpt"))


def test_it_takes_up_the_last_snapshot_and_says_what_is_lost(mortal: Servers, tmp_path: Path) -> None:
    client = carrying_on(mortal)
    push(client)
    save(client, tmp_path)
    push(client)
    push(client)
    assert value(client) == {-2.0}
    first = mortal.log(1)
    mortal.again(1, FLEET_REJOIN="1")
    assert value(client) == {-2.0, 0.0}, first  # server 0 has all three, server 1 the one before the snapshot
    push(client)  # counts there as everywhere
    assert value(client) == {-3.0, -1.0}
    (line,) = recovery.read_losses(str(tmp_path), 1)
    assert "server 1 was started again and carries on from ckpt; lost: 2 steps (2 of trainer 0) with" in line
    assert line in mortal.log(1) and "WARNING" in mortal.log(1)
    mortal.again(1, FLEET_REJOIN="1")
    assert value(client) == {-3.0, 0.0}
    assert "lost: 1 steps (1 of trainer 0)" in recovery.read_losses(str(tmp_path), 1)[1]  # what was lost before is not said twice


def test_a_snapshot_that_its_servers_next_life_does_not_know(mortal: Servers, tmp_path: Path) -> None:
    """It is none, and says that a server was started again: a job that carries on saves once more instead of failing."""
    client = carrying_on(mortal)
    save(client, tmp_path)
    saving = trainer.Saving(client, str(tmp_path / "next"), None, False, str(tmp_path / "next"))
    mortal.again(1, FLEET_REJOIN="1")
    with pytest.raises(SnapshotError, match="server 1 is not writing snapshot"):
        saving.wait()
    assert saving.interrupted
    whole = trainer.Saving(client, str(tmp_path / "whole"), None, False, str(tmp_path / "whole"))
    assert whole.wait() and not whole.interrupted


def test_a_push_under_way_counts_once(mortal: Servers, tmp_path: Path) -> None:
    """The server dies with a push in its socket: the link sends it to the next life."""
    client = carrying_on(mortal)
    push(client)
    save(client, tmp_path)
    stop(mortal.processes[0].pid)
    pushing = threading.Thread(target=push, args=(client,))
    pushing.start()
    time.sleep(0.1)
    mortal.again(0, FLEET_REJOIN="1")
    pushing.join(90)
    assert not pushing.is_alive()
    assert value(client) == {-1.0}
    assert "lost: nothing" in mortal.log(0)


def test_a_push_that_was_between_two_servers_when_they_cut(mortal: Servers, tmp_path: Path) -> None:
    """Counted on server 0 and not yet on server 1: that is what each notes, so server 1's next life takes it."""
    client = carrying_on(mortal)
    push(client)
    table = client.tables["t"]
    keys, _, counts = table.unique.unique(KEYS, client.server_of_shard, 2)
    of_server = np.split(keys, [counts[0]])

    def arrives_at(server: int) -> None:
        part = Gradient(table.numbers[server], of_server[server], np.ones((counts[server], 4), np.float32), 1.0)
        client._run(lambda: client._links[server].ask_push(2, 2, [part]))
        client._run(client._links[server].take_push)

    arrives_at(0)
    save(client, tmp_path)
    arrives_at(1)
    mortal.again(1, FLEET_REJOIN="1")
    assert value(client) == {-1.0, 0.0}
    assert "lost: 1 steps (1 of trainer 0)" in mortal.log(1)
    arrives_at(1)  # once more, as its link does if the answer was lost
    arrives_at(0)
    assert value(client) == {-1.0}


def test_without_a_snapshot_rows_begin_anew_and_it_is_said(mortal: Servers) -> None:
    client = carrying_on(mortal)
    push(client)
    mortal.again(0, FLEET_REJOIN="1")
    assert value(client) == {0.0, 1.0}
    assert "has no snapshot: every row begins anew; lost: 1 steps" in mortal.log(0)


def test_who_rolls_back_talks_to_no_other_life() -> None:
    with Servers(1) as servers:
        client = servers.client(mode="async")
        client.open(spec())
        push(client)
        servers.again(0)
        with pytest.raises(PeerLost, match="another process answers in the place of server 0"):
            value(client)


def test_a_server_that_does_not_come_back(mortal: Servers) -> None:
    client = Client(mortal.links(return_s=0.5), Mode("async"), 20)
    mortal._clients.append(client)
    client.open(spec())
    mortal.processes[0].kill()
    with pytest.raises(PeerLost, match="server 0 died"):
        value(client)


def test_silence_is_suspected_and_named(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    """Stopped for a while: suspected, and survived. Stopped for good: named, a little before the others give this trainer up."""
    monkeypatch.setattr(watched, "SUSPECT_S", 0.3)
    monkeypatch.setattr(watched, "PROBE_S", 0.1)
    with Servers(1) as servers:
        client = servers.client(mode="async", timeout_s=3)
        client.open(spec())
        push(client)
        pid = servers.processes[0].pid
        stop(pid)
        later = threading.Timer(1.0, os.kill, (pid, signal.SIGCONT))
        later.start()
        assert value(client) == {0.0}
        later.join()
        assert said == ["server 0 has not answered for 0 s", "server 0 answers again, after 1 s"]
        stop(pid)
        began = time.monotonic()
        with pytest.raises(PeerLost, match="server 0 has not answered for 2 s"):
            value(client)
        assert time.monotonic() - began < 3


def test_a_server_that_waits_for_a_trainer_is_not_suspected(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(watched, "SUSPECT_S", 0.2)
    with Servers(1, world_size=2) as servers:
        client = servers.client(timeout_s=1.5)
        client.open(spec())
        table = client.tables["t"]
        client.push([], 1.0)
        with pytest.raises(PeerLost, match="trainer 1 did not push step 1"):
            client.pull([(table, KEYS)], create=True).result()
        assert said == []


def test_another_fleet_is_refused_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    with Servers(1) as servers:
        monkeypatch.setattr("fleet.parameter_server.link.__version__", "9.9")
        with pytest.raises(ConfigError, match=r"server 0 runs fleet 0\.\S+, this trainer fleet 9\.9"):
            SocketLink(servers.addresses[0], 0, SECRET, 0, 1, 5, 1)
        monkeypatch.setattr(wire, "VERSION", 77)
        with pytest.raises(ConfigError, match="speaks protocol version 1, this side 77"):
            SocketLink(servers.addresses[0], 0, SECRET, 0, 1, 5, 1)


def test_a_second_server_at_the_same_place_is_refused() -> None:
    with Servers(1) as servers:
        client = servers.client(mode="async")
        client.open(spec())
        second = servers._start(0)
        assert second.wait(20) == 1
        assert "a server listens there already" in servers.log(0)
        assert value(client) == {1.0}


def test_the_ledger_holds_the_last_pushes(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "ledger"))
    assert ledger.lost({}) == ""
    for sequence in range(1, 11):
        ledger.note(sequence % 2, 5, sequence, 100)
    again = Ledger(str(tmp_path / "ledger"))
    assert again.lost({0: (5, 6), 1: (5, 9)}) == "2 steps (2 of trainer 0) with 200 updates of rows"
    assert again.lost({0: (6, 0), 1: (6, 0)}) == ""
    assert again.lost({0: (4, 99), 1: (5, 99)}) == "5 steps (5 of trainer 0) with 500 updates of rows"
    for sequence in range(11, MAX_ENTRIES + 20):
        again.note(0, 5, sequence, 1)
    assert again.lost({}).startswith(f"at least {MAX_ENTRIES} steps")
    assert not again.lost({0: (5, MAX_ENTRIES)}).startswith("at least")


def test_the_next_job_on_a_server_whose_job_died_begins_anew() -> None:
    """Nobody of the first job said BYE, so the server is still there. Its rows, steps and counted pushes are not the next one's."""
    with Servers(1, argv=("-c", IMPATIENT)) as servers:
        first = Client(servers.links(job=1, incarnation=9), Mode("sync"), 20)
        first.open(spec())
        push(first)
        with pytest.raises(ConfigError, match="another job is on here, with trainer 0"):
            servers.links(job=2)
        for link in first._links:
            link._line.close()  # type: ignore[attr-defined]
        second = Client(servers.links(job=2, incarnation=5), Mode("async"), 20)  # another consistency, a clock set back
        second.open(spec(dim=4))
        assert value(second) == {1.0}
        push(second)
        assert value(second) == {0.0}
        second.close()
        assert servers.processes[0].wait(10) == 0


def test_one_script_serves_one_job_after_the_other() -> None:
    serve = "import fleet; fleet.init()\nfor _ in range(3): fleet.run_server()"
    with Servers(1, argv=("-c", serve)) as servers:
        for job in (1, 2, 3):
            client = Client(servers.links(job=job), Mode("sync"), 20)
            client.open(spec())
            assert value(client) == {1.0}
            push(client)
            client.close()
        assert servers.processes[0].wait(20) == 0
        assert servers.log().count("all trainers have ended") == 3


def test_a_clock_that_was_set_back(tmp_path: Path) -> None:
    """The snapshot knows a later life of the trainer than the one that loads it, whose pushes count all the same."""
    with Servers(1) as servers:
        before = Client(servers.links(incarnation=2**60), Mode("async"), 20)
        before.open(spec())
        push(before)
        trainer.save(before, str(tmp_path))
    with Servers(1) as servers:
        now = Client(servers.links(incarnation=5), Mode("async"), 20)
        now.open(spec())
        trainer.load(now, str(tmp_path))
        push(now)
        assert value(now) == {-1.0}
        now.close()


def test_a_clock_that_was_set_back_and_a_server_that_carries_on(mortal: Servers, tmp_path: Path) -> None:
    """The server alone takes up a checkpoint of the run before, before any trainer has said how late its life is."""
    with Servers(2) as earlier:
        before = Client(earlier.links(incarnation=2**61), Mode("async"), 20)
        for wanted in (spec("other", dim=2), spec()):
            before.open(wanted)
        push(before)
        save(before, tmp_path)
    with open(recovery.position_path(str(tmp_path), 0), "r+b") as file:
        file.seek(recovery._INCARNATION_AT)
        file.write((5).to_bytes(8, "little"))  # what the clock said at the second run's start
    client = Client(mortal.links(incarnation=5, return_s=60), Mode("async"), 20)
    mortal._clients.append(client)
    for wanted in (spec("other", dim=2), spec()):
        client.open(wanted)
    trainer.load(client, str(tmp_path / "ckpt/tables"))
    push(client)
    mortal.again(1, FLEET_REJOIN="1")
    push(client)  # counts, though the checkpoint knows a later life
    assert value(client) == {-2.0, -1.0}
    assert "lost: 1 steps (1 of trainer 0)" in recovery.read_losses(str(tmp_path), 1)[0]


def test_two_processes_that_claim_one_index() -> None:
    """Each trainer's own list looks right; together they would update two halves."""

    class Together:
        role = SimpleNamespace(rank=0)

        def meet(self, what: str, payload: bytes) -> list[bytes]:
            return [payload, json.dumps([link.life for link in other.links(rank=1)]).encode()]

    with Servers(1, world_size=2) as mine, Servers(1, world_size=2) as other:
        with pytest.raises(ConfigError, match="two processes claim to be server 0: trainer 1"):
            _agree_on_servers(Together(), mine.links())  # type: ignore[arg-type]
        other = mine
        _agree_on_servers(Together(), mine.links())  # type: ignore[arg-type]
