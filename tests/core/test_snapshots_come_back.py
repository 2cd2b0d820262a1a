"""``save`` and ``load``: readable by the safetensors package, checked by zlib, any cut of shards, any number of servers."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from core_oracle import OPTIMIZERS, core, pulled, random_floats, random_ids, table
from safetensors import safe_open
from safetensors.numpy import load_file

ALL = np.ones(1024, np.bool_)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("n", [0, 1, 30_000])
def test_round_trip(optimizer: str, n: int, tmp_path: Path) -> None:
    path = str(tmp_path / "part.safetensors")
    rows, ids = table(5, optimizer), random_ids(n)
    rows.push(ids, random_floats(n, 5), 0.1, 1)
    saved = rows.save(path, 0, 1024)
    assert saved["rows"] == n and saved["bytes"] == os.path.getsize(path)
    tensors = load_file(path)
    assert set(tensors) == ({"keys", "weights", "state"} if rows.state_dim else {"keys", "weights"})
    assert tensors["keys"].dtype == np.uint64 and tensors["weights"].shape == (n, 5)
    assert saved["checksums"] == {name: zlib.crc32(t.tobytes()) for name, t in tensors.items()}
    assert (np.diff(core.shard_of(tensors["keys"], 11).astype(int)) >= 0).all()
    assert sorted(tensors["keys"].tolist()) == sorted(ids.tolist())
    _, weights, state = rows.read(tensors["keys"])
    np.testing.assert_array_equal(tensors["weights"], weights)
    if rows.state_dim:
        np.testing.assert_array_equal(tensors["state"], state)
    again = table(5, optimizer, seed=99)
    assert again.load(path, ALL, saved["checksums"]) == n == again.size
    for was, now in zip(rows.read(ids), again.read(ids), strict=True):
        np.testing.assert_array_equal(was, now)


def test_metadata(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    table(3, "adam", salt=2**64 - 1).save(path, 10, 20)
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"format": "fleet.table.1", "optimizer": "adam", "dim": "3", "state_dim": "6",
                                   "salt": str(2**64 - 1), "shard_low": "10", "shard_high": "20"}  # fmt: skip


def test_two_servers_to_three(tmp_path: Path) -> None:
    rows, ids = table(4, "adagrad"), random_ids(20_000)
    rows.push(ids, random_floats(20_000, 4), 0.1, 1)
    files = []
    for low, high in ((0, 512), (512, 1024)):
        path = str(tmp_path / str(low))
        files.append((path, rows.save(path, low, high)))
    assert sum(saved["rows"] for _, saved in files) == 20_000
    owner = np.random.default_rng(3).integers(0, 3, 1024)
    servers = [table(4, "adagrad", stripes=2**i) for i in range(3)]
    for i, server in enumerate(servers):
        assert sum(server.load(path, owner == i, saved["checksums"]) for path, saved in files) == server.size
    of_id = owner[core.shard_of(ids, 11)]
    for i, server in enumerate(servers):
        mine = ids[of_id == i]
        assert server.size == len(mine)
        for was, now in zip(rows.read(mine), server.read(mine), strict=True):
            np.testing.assert_array_equal(was, now)


def test_loading_replaces_rows_and_keeps_others(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    rows = table()
    ids = np.arange(10, dtype=np.uint64)
    pulled(rows, ids[:5], create=True)
    saved = rows.save(path, 0, 1024)
    rows.push(ids, np.ones((10, 4), np.float32), 0.1, 1)
    before = rows.read(ids)
    assert rows.load(path, ALL, saved["checksums"]) == 5 and rows.size == 10
    after = rows.read(ids)
    np.testing.assert_array_equal(after[1][5:], before[1][5:])
    np.testing.assert_array_equal(after[1][:5], pulled(table(), ids[:5]))
    assert (after[2][:5] == 0).all() and (after[2][5:] == 1).all()


def test_a_table_larger_than_the_buffers(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    rows, ids = table(500, "sgd", stripes=2), random_ids(50_000)  # 100 MB
    expected = pulled(rows, ids, create=True)
    saved = rows.save(path, 0, 1024)
    again = table(500, "sgd", seed=1)
    assert again.load(path, ALL, saved["checksums"]) == 50_000
    np.testing.assert_array_equal(pulled(again, ids), expected)
