"""``Cut`` and ``Load``: readable by the safetensors package, checked by zlib, any cut of shards, any number of servers."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from core_oracle import OPTIMIZERS, core, load, pulled, random_floats, random_ids, save, table
from safetensors import safe_open
from safetensors.numpy import load_file


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("n", [1, 30_000])
def test_round_trip(optimizer: str, n: int, tmp_path: Path) -> None:
    rows, ids = table(5, optimizer), random_ids(n)
    rows.push(ids, random_floats(n, 5), 0.1, 1)
    (saved,) = save(rows, tmp_path / "part")
    assert saved["path"] == str(tmp_path / "part-00000.safetensors")
    assert saved["rows"] == n and saved["bytes"] == os.path.getsize(saved["path"])
    tensors = load_file(saved["path"])
    assert set(tensors) == ({"keys", "weights", "state"} if rows.state_dim else {"keys", "weights"})
    assert tensors["keys"].dtype == np.uint64 and tensors["weights"].shape == (n, 5)
    assert saved["checksums"] == {name: zlib.crc32(t.tobytes()) for name, t in tensors.items()}
    assert sorted(tensors["keys"].tolist()) == sorted(ids.tolist())
    _, weights, state = rows.read(tensors["keys"])
    np.testing.assert_array_equal(tensors["weights"], weights)
    if rows.state_dim:
        np.testing.assert_array_equal(tensors["state"], state)
    again = table(5, optimizer, seed=99)
    assert load(again, [saved]) == n == again.size
    for was, now in zip(rows.read(ids), again.read(ids), strict=True):
        np.testing.assert_array_equal(was, now)


def test_an_empty_table_has_no_files(tmp_path: Path) -> None:
    assert save(table(), tmp_path / "part") == [] and list(tmp_path.iterdir()) == []


def test_metadata(tmp_path: Path) -> None:
    rows = table(3, "adam", salt=2**64 - 1)
    pulled(rows, random_ids(3), create=True)
    (saved,) = save(rows, tmp_path / "a")
    with safe_open(saved["path"], "numpy") as file:
        assert file.metadata() == {"format": "fleet.table.2", "optimizer": "adam", "dim": "3", "state_dim": "6",
                                   "salt": str(2**64 - 1)}  # fmt: skip


def test_two_servers_to_three(tmp_path: Path) -> None:
    rows, ids = table(4, "adagrad"), random_ids(20_000)
    rows.push(ids, random_floats(20_000, 4), 0.1, 1)
    files = [file for low, high in ((0, 512), (512, 1024)) for file in save(rows, tmp_path / str(low), low, high)]
    assert sum(file["rows"] for file in files) == 20_000
    owner = np.random.default_rng(3).integers(0, 3, 1024)
    servers = [table(4, "adagrad", stripes=2**i) for i in range(3)]
    for i, server in enumerate(servers):
        assert load(server, files, owner == i) == server.size
    of_id = owner[core.shard_of(ids, 11)]
    for i, server in enumerate(servers):
        mine = ids[of_id == i]
        assert server.size == len(mine)
        for was, now in zip(rows.read(mine), server.read(mine), strict=True):
            np.testing.assert_array_equal(was, now)


def test_rows_that_are_there_are_newer(tmp_path: Path) -> None:
    rows, ids = table(), np.arange(10, dtype=np.uint64)
    pulled(rows, ids[:5], create=True)
    files = save(rows, tmp_path / "a")
    newer = table()
    newer.push(ids[3:], np.ones((7, 4), np.float32), 0.1, 1)
    before = newer.read(ids[3:])
    assert load(newer, files) == 3 and load(newer, files) == 0 and newer.size == 10
    for was, now in zip(before, newer.read(ids[3:]), strict=True):
        np.testing.assert_array_equal(was, now)
    np.testing.assert_array_equal(newer.read(ids[:3])[1], pulled(table(), ids[:3]))


def test_a_table_of_several_files(tmp_path: Path) -> None:
    rows, ids = table(500, "sgd", stripes=2), random_ids(5_000)
    expected = pulled(rows, ids, create=True)
    files = save(rows, tmp_path / "a", file_bytes=1 << 20)
    assert len(files) == 10 and max(file["bytes"] for file in files) < 1.1 * (1 << 20)
    again = table(500, "sgd", seed=1)
    assert load(again, files) == 5_000
    np.testing.assert_array_equal(pulled(again, ids), expected)


@pytest.mark.parametrize("optimizer, other", [("adagrad", "adam"), ("sgd", "adam"), ("adam", "sgd"), ("adam", "adam")])
def test_row_state_can_be_dropped(optimizer: str, other: str, tmp_path: Path) -> None:
    rows, ids = table(3, optimizer), random_ids(50)
    rows.push(ids, random_floats(50, 3), 0.1, 1)
    files = save(rows, tmp_path / "a")
    again = table(3, other, hyper={"initial_accumulator_value": 0.5} if other == "adagrad" else {})
    assert load(again, files, keep_state=False) == 50
    np.testing.assert_array_equal(again.read(ids)[1], rows.read(ids)[1])
    fresh = table(3, other)
    pulled(fresh, ids, create=True)
    np.testing.assert_array_equal(again.read(ids)[2], fresh.read(ids)[2])
    if other != optimizer:
        with pytest.raises(ValueError, match="optimizer"):
            load(table(3, other), files)
