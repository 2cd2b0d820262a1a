"""Parquet: row groups as blocks, lists as ragged columns, rows with nulls left out; without pyarrow it says what to install."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet.data import FileLoader, Parquet
from fleet.errors import ConfigError


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(ConfigError, match="pyarrow, which is missing") as caught:
        FileLoader(tmp_path / "a", Parquet(["x"]), 4)
    assert "pip install" in caught.value.fix


def table(pa: Any, n: int) -> Any:
    rows = range(n)
    return pa.table({
        "label": pa.array([i % 2 for i in rows], pa.int8()),
        "id": pa.array([2**63 + i for i in rows], pa.uint64()),
        "words": pa.array([None if i == 7 else [i * 10 + k for k in range(i % 3)] for i in rows], pa.list_(pa.int32())),
        "dense": pa.array([None if i == 11 else [0.5, None if i == 12 else i] for i in rows], pa.list_(pa.float64(), 2)),
        "price": pa.array([None if i == 3 else i / 4 for i in rows], pa.float64()),
        "name": pa.array(["x"] * n),
    })  # fmt: skip


@pytest.mark.parametrize("num_readers", [0, 2])
@pytest.mark.parametrize("window", [0, 30])
def test_rows(tmp_path: Path, window: int, num_readers: int) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for part in range(2):
        parquet.write_table(table(pa, 50), tmp_path / f"part-{part}.parquet", row_group_size=20)
    names = ["label", "id", "words", "dense", "price"]
    loader = FileLoader(tmp_path, Parquet(names), 16, window=window, num_readers=num_readers, to="numpy")
    assert loader.num_lines == 100 and len(loader) == 7
    batches = list(loader)
    ids = np.concatenate([batch["id"] for batch in batches]) - np.uint64(2**63)
    rows = ids.astype(np.int64)
    assert sorted(rows.tolist()) == sorted([i for i in range(50) if i not in (3, 7, 11, 12)] * 2)
    assert (rows.tolist() == sorted(range(50)) * 2) is False and (window > 0) == bool((np.diff(rows[:46]) < 0).any())
    for batch in batches:
        found = (batch["id"] - np.uint64(2**63)).astype(np.int64)
        assert batch["label"].tolist() == (found % 2).tolist() and batch["label"].dtype == np.int64
        values, lengths = batch["words"]
        assert lengths.tolist() == (found % 3).tolist()
        assert values.tolist() == [i * 10 + k for i in found.tolist() for k in range(i % 3)]
        assert batch["dense"].tolist() == [[0.5, i] for i in found.tolist()] and batch["dense"].dtype == np.float32
        assert batch["price"].tolist() == (found / 4).tolist() and batch["price"].dtype == np.float32


def test_what_it_cannot_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "part.parquet"
    parquet.write_table(table(pa, 50), path)
    for columns, says in (["nowhere"], "no column 'nowhere'"), (["name"], "not numbers"), (["price", "dense"], "max_bad_lines=0"):
        with pytest.raises(ConfigError, match=says) as caught:
            list(FileLoader(path, Parquet(columns), 4, max_bad_lines=0, num_readers=0, to="numpy"))
        assert "part.parquet" in caught.value.at
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ConfigError, match="not a Parquet file"):
        FileLoader(path, Parquet(["price"]), 4)


@pytest.mark.parametrize("columns", [[], [1], ["a", "a"]])
def test_wrong_columns(columns: Any) -> None:
    with pytest.raises(ConfigError, match="columns"):
        Parquet(columns)
