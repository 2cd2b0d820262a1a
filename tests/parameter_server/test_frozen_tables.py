"""Tables that are only read: every row of a snapshot comes back, from any number of servers, through a file that is mapped."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import spec

from fleet.errors import SnapshotError, TableError
from fleet.parameter_server import freeze, native
from fleet.parameter_server.frozen import FrozenTable
from fleet.parameter_server.spec import shard_range

DIM = 5


def table(n: int, **changes: Any) -> tuple[Any, Any, Any]:
    """Return a spec, a table of ``n`` rows whose ids reach from 0 to 2^64 - 1, and the ids."""
    about = spec("t", DIM, "adagrad", initializer="normal", init_args=(0.0, 1.0), **changes)
    rows = about.make(native.load())
    keys = np.unique(np.random.default_rng(n).integers(0, 1 << 64, n, dtype=np.uint64))
    keys[:1], keys[-1:] = 0, (1 << 64) - 1
    if n:
        rows.push(keys, np.random.default_rng(0).standard_normal((len(keys), DIM)).astype(np.float32), 0.3, 1)
    return about, rows, keys


def saved(rows: Any, directory: Path, stem: str, low: int = 0, high: int = 1024) -> list[dict[str, Any]]:
    """Write the rows of some shards as a server does; return what the manifest says of the files."""
    (files,) = native.load().Cut([rows], [0]).write([str(directory / stem)], low, high)
    return [{**file, "file": Path(file["path"]).name} for file in files]


def frozen(directory: Path, about: Any, rows: Any, servers: int = 1, dtype: str = "float32") -> FrozenTable:
    directory.mkdir()
    parts = []
    for s in range(servers):
        low, high = shard_range(s, servers)
        parts.append({"shards": [low, high], "rows": 0, "files": saved(rows, directory, f"part-{s}", low, high)})
        parts[-1]["rows"] = sum(file["rows"] for file in parts[-1]["files"])
    written = freeze._write(str(directory / "t"), about, str(directory), parts[::-1], dtype)
    return FrozenTable(str(directory), {"spec": about.to_json(), "file": "t", "dtype": dtype, **written})


@pytest.mark.parametrize("n", [0, 1, 7, 50_000])
def test_every_row_and_every_other_id(tmp_path: Path, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeze, "CHUNK_BYTES", 36 * 1000)  # many chunks
    about, rows, keys = table(n)
    found = frozen(tmp_path / "1", about, rows, servers=3)
    found.verify()
    assert found.num_rows == len(keys) == rows.size
    others = [keys[: n // 2] + np.uint64(1), np.arange(99, dtype=np.uint64)]
    ids = np.random.default_rng(1).permutation(np.concatenate([keys, *others]))
    np.testing.assert_array_equal(found.rows(ids), rows.read(ids)[1])  # a missing one reads as its initial value
    assert found.rows(ids.reshape(1, -1)[:, :0]).shape == (1, 0, DIM)


def test_the_bytes_do_not_depend_on_the_servers(tmp_path: Path) -> None:
    about, rows, _ = table(3000)
    files = [Path(frozen(tmp_path / str(n), about, rows, servers=n).path).read_bytes() for n in (1, 2, 5)]
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits(tmp_path: Path, dtype: str) -> None:
    about, rows, keys = table(2000)
    exact = rows.read(keys)[1]
    got = frozen(tmp_path / dtype, about, rows, dtype=dtype).rows(keys)
    if dtype == "float16":
        np.testing.assert_array_equal(got, exact.astype(np.float16).astype(np.float32))
    else:
        assert (got.view(np.uint32) & 0xFFFF == 0).all()
        assert (np.abs(got - exact) <= np.abs(exact) * 2.0**-8).all()  # half of the last of 8 bits


@pytest.mark.parametrize("n", [0, 1, 9000])
@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_tables_that_store_16_bits(tmp_path: Path, stored: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept as they are, or widened, every row is the same bits; ids without a row too. In the other form they are rounded."""
    monkeypatch.setattr(freeze, "CHUNK_BYTES", 36 * 1000)
    about, rows, keys = table(n, weights=stored, state="bfloat16")
    ids = np.random.default_rng(1).permutation(np.concatenate([keys, np.arange(99, dtype=np.uint64)]))
    exact = rows.read(ids)[1]
    same = frozen(tmp_path / "same", about, rows, servers=3, dtype=stored)
    wide = frozen(tmp_path / "wide", about, rows, servers=2, dtype="float32")
    for found in (same, wide):
        found.verify()
        np.testing.assert_array_equal(found.rows(ids), exact)
    assert n < 2 or Path(same.path).stat().st_size < Path(wide.path).stat().st_size * 0.75
    other = "bfloat16" if stored == "float16" else "float16"
    got = frozen(tmp_path / "other", about, rows, dtype=other).rows(keys)
    expected = np.empty_like(got)
    native.load().widen(freeze.to_16_bits(rows.read(keys)[1], other).reshape(-1), expected.reshape(-1), other)
    np.testing.assert_array_equal(got, expected)


def test_weights_of_another_form_than_the_specs(tmp_path: Path) -> None:
    about, rows, _ = table(100)
    frozen(tmp_path / "p", about, rows)
    (file,) = saved(rows, tmp_path / "p", "part-0")
    part = {"shards": [0, 1024], "rows": 100, "files": [file]}
    with pytest.raises(SnapshotError, match="does not hold bfloat16 weights"):
        freeze._write(str(tmp_path / "x"), about._replace(weights="bfloat16"), str(tmp_path / "p"), [part], "bfloat16")


def test_16_bits_at_the_edges() -> None:
    edges = np.array([[0.0, -0.0, np.inf, -np.inf, np.nan, 65504, 65520, 6e-8, 5.9e-8, 1e-40, 3.3895e38, 3.4e38]], np.float32)
    core, key = native.load(), np.zeros(1, np.uint64)
    for dtype in ("float16", "bfloat16"):
        bits, out = freeze.to_16_bits(edges, dtype), np.empty_like(edges)
        missing = core.frozen_read(key, out, np.array([0, 1], np.uint64), key, bits, dtype, 0)
        if dtype == "float16":
            with np.errstate(over="ignore"):
                expected = edges.astype(np.float16).astype(np.float32)
        else:
            expected = np.array([[0.0, -0.0, np.inf, -np.inf, np.nan, 65536, 65536, 6.0070306e-08, 5.8906153e-08, 9.1835496e-41,
                                  3.3895314e38, np.inf]], np.float32)  # fmt: skip
        assert len(missing) == 0
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(np.signbit(out[0, :4]), np.signbit(edges[0, :4]))


def test_wrong_ids_are_refused(tmp_path: Path) -> None:
    about, rows, _ = table(10, vocabulary=40)
    found = frozen(tmp_path / "v", about, rows)
    for ids, what in (([-1], "negative"), ([0.5], "integers"), ([40], "outside the vocabulary of 40")):
        with pytest.raises(TableError, match=what):
            found.rows(ids)


def test_a_damaged_index_reads_nothing_outside(tmp_path: Path) -> None:
    about, rows, keys = table(1000)
    found = frozen(tmp_path / "d", about, rows)
    damaged = np.array(found._tensors["index"])
    damaged[5:] += np.uint64(1 << 40)
    found._tensors["index"] = damaged
    with pytest.raises(SnapshotError, match="points outside"):
        found.rows(keys)


def test_a_damaged_part_of_the_snapshot(tmp_path: Path) -> None:
    about, rows, _ = table(1000)
    frozen(tmp_path / "p", about, rows)
    path = tmp_path / "p" / "part-0-00000.safetensors"
    (file,) = saved(rows, tmp_path / "p", "part-0")
    good = {"shards": [0, 1024], "rows": 1000, "files": [file]}
    path.write_bytes(path.read_bytes()[:-3000] + bytes(3000))
    good["rows"] = file["rows"] = 1001
    with pytest.raises(SnapshotError, match="does not hold 1001 rows"):
        freeze._write(str(tmp_path / "x"), about, str(tmp_path / "p"), [good], "float32")
    good["rows"] = file["rows"] = 1000
    saved(rows, tmp_path / "p", "part-0")
    data = bytearray(path.read_bytes())
    data[600] ^= 1  # among the keys
    path.write_bytes(data)
    with pytest.raises(SnapshotError, match="checksum"):
        freeze._write(str(tmp_path / "x"), about, str(tmp_path / "p"), [good], "float32")


def test_many_threads_at_once(tmp_path: Path) -> None:
    about, rows, keys = table(20_000)
    found, wrong = frozen(tmp_path / "m", about, rows), []
    expected = rows.read(keys)[1]

    def look_up(seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(keys))
        wrong.extend([seed] * (not np.array_equal(found.rows(keys[order]), expected[order])))

    threads = [threading.Thread(target=look_up, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []
