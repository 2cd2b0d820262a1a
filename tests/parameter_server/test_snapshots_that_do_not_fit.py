"""A snapshot loads on another number of servers; one that is damaged, foreign or of another model is refused and moves no row."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import Servers, spec

from fleet.errors import PeerLost, SnapshotError
from fleet.parameter_server.client import Client, RowGradient, Table
from fleet.parameter_server.snapshot import trainer as snapshot

KEYS = np.arange(500, dtype=np.uint64) * np.uint64(2**55 + 1)
SPECS = (spec("users", 4, "adagrad"), spec("items/of shop", 7, "adam"))


def train(client: Client, tables: list[Table], steps: int) -> None:
    rng = np.random.default_rng(client.step)
    for _ in range(steps):
        pulled = client.pull([(t, KEYS) for t in tables], create=True).result(20)
        parts = []
        for table, p in zip(tables, pulled, strict=True):
            values = np.empty_like(p.rows)
            values[p.inverse] = rng.standard_normal(p.rows.shape).astype(np.float32)
            parts.append((table, RowGradient(p.keys, p.counts, values)))
        client.push(parts, 0.1)


def rows(client: Client, tables: list[Table]) -> list[bytes]:
    return [client.read(t, KEYS).tobytes() for t in tables]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes], list[bytes]]:
    """A snapshot of two servers after three steps; its rows, and the rows two steps later."""
    directory = tmp_path_factory.mktemp("snapshot")
    with Servers(2) as servers:
        client = servers.client()
        tables = [client.open(s) for s in SPECS]
        train(client, tables, 3)
        before = rows(client, tables)
        snapshot.save(client, str(directory))
        train(client, tables, 2)
        return directory, before, rows(client, tables)


@pytest.mark.parametrize("num_servers", [1, 2, 3])
def test_another_number_of_servers_goes_on_to_the_same_bits(saved: Any, num_servers: int) -> None:
    directory, before, after = saved
    with Servers(num_servers) as servers:
        client = servers.client(incarnation=2)
        tables = [client.open(s) for s in SPECS]
        train(client, tables, 1)  # what was there is replaced
        client.step = snapshot.load(client, str(directory)).manifest["step"]
        assert client.step == 3 and rows(client, tables) == before
        train(client, tables, 2)
        assert rows(client, tables) == after


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Client, list[Table]]]:
    with Servers(2) as servers:
        client = servers.client()
        tables = [client.open(s) for s in SPECS]
        train(client, tables, 1)
        yield client, tables


@pytest.fixture
def copy(saved: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "copy"))


def refused(running: Any, directory: Path) -> str:
    """Load, which must fail and leave every row as it was; return what is said."""
    client, tables = running
    before = rows(client, tables)
    with pytest.raises(SnapshotError) as caught:
        snapshot.load(client, str(directory))
    assert rows(client, tables) == before
    train(client, tables, 1)  # and the job goes on
    client.flush()
    return str(caught.value)


def parts(directory: Path) -> list[Path]:
    found = sorted(directory.rglob("*.safetensors"))
    assert len(found) == 4
    return found


@pytest.mark.parametrize("which", range(4))
def test_a_truncated_file(running: Any, copy: Path, which: int) -> None:
    path = parts(copy)[which]
    os.truncate(path, path.stat().st_size - 100)
    assert str(path) in refused(running, copy)


def test_a_flipped_bit(running: Any, copy: Path) -> None:
    path = parts(copy)[1]
    raw = bytearray(path.read_bytes())
    raw[-50] ^= 4
    path.write_bytes(raw)
    assert str(path) in refused(running, copy)


def test_files_that_changed_places(running: Any, copy: Path) -> None:
    first, second = parts(copy)[:2]
    first.rename(copy / "x")
    second.rename(first)
    (copy / "x").rename(second)
    refused(running, copy)


def test_a_missing_file(running: Any, copy: Path) -> None:
    parts(copy)[3].unlink()
    assert "part-0001-00000.safetensors" in refused(running, copy)


def test_a_foreign_file(running: Any, copy: Path) -> None:
    parts(copy)[0].write_bytes(b"\x93NUMPY" + os.urandom(5000))
    refused(running, copy)


def test_no_snapshot_at_all(running: Any, tmp_path: Path) -> None:
    assert "the manifest is missing" in refused(running, tmp_path)


@pytest.mark.parametrize("manifest", ["", "{", "[]", "{}", '{"format": "another 7"}'])
def test_a_manifest_that_is_none(running: Any, copy: Path, manifest: str) -> None:
    (copy / "manifest.json").write_text(manifest)
    assert "manifest" in refused(running, copy)


def test_a_manifest_of_another_format(running: Any, copy: Path) -> None:
    edit(copy, format="fleet tables 999")
    assert "fleet tables 999" in refused(running, copy)


@pytest.mark.parametrize("changes, words", [
    (dict(dim=5), "dim"), (dict(optimizer="sgd", hyper=()), "optimizer 'adagrad', not 'sgd'"),
    (dict(hyper=(("epsilon", 0.5),)), "hyper"),
    (dict(seed=8), "seed 7, not 8"), (dict(init_args=(2.0, 0.0)), "init_args"),
])  # fmt: skip
def test_another_model(saved: Any, changes: dict[str, Any], words: str) -> None:
    with Servers(1) as servers:
        client = servers.client()
        tables = [client.open(SPECS[0]._replace(**changes)), client.open(SPECS[1])]
        before = rows(client, tables)
        with pytest.raises(SnapshotError, match="the snapshot's table 'users' has") as caught:
            snapshot.load(client, str(saved[0]))
        assert words in str(caught.value)
        assert rows(client, tables) == before


def test_more_or_fewer_tables_than_the_model(saved: Any) -> None:
    with Servers(1) as servers:
        client = servers.client()
        client.open(SPECS[0])
        with pytest.raises(SnapshotError, match="holds tables that the model does not: items/of shop"):
            snapshot.load(client, str(saved[0]))
        client.open(SPECS[1])
        client.open(spec("one more"))
        with pytest.raises(SnapshotError, match="the snapshot holds no table 'one more'"):
            snapshot.load(client, str(saved[0]))


def test_a_directory_that_cannot_be_written(running: Any, tmp_path: Path) -> None:
    (tmp_path / "in the way").write_text("")
    with pytest.raises((SnapshotError, OSError)):
        snapshot.save(running[0], str(tmp_path / "in the way"))
    client, tables = running
    train(client, tables, 1)
    client.flush()


def test_a_server_that_dies_while_it_saves(saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves a snapshot without a manifest, which is none; the one before still loads."""
    monkeypatch.setattr("fleet.parameter_server.link.RECONNECT_S", 0.5)
    with Servers(2) as servers:
        client = servers.client()
        tables = [client.open(s) for s in SPECS]
        train(client, tables, 1)
        client.flush()
        servers.processes[1].kill()
        with pytest.raises(PeerLost, match="server 1 died"):
            snapshot.save(client, str(tmp_path / "broken"))
        assert not (tmp_path / "broken" / "manifest.json").exists()
    with Servers(1) as servers:
        client = servers.client()
        tables = [client.open(s) for s in SPECS]
        with pytest.raises(SnapshotError, match="the manifest is missing"):
            snapshot.load(client, str(tmp_path / "broken"))
        client.step = snapshot.load(client, str(saved[0])).manifest["step"]
        assert rows(client, tables) == saved[1]


def edit(directory: Path, **changes: Any) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
