"""Whatever is wrong with a file is said, with its place, and nothing of it is loaded."""

from __future__ import annotations

import errno
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_oracle import core, pulled, random_floats, random_ids, save, table
from safetensors.numpy import load_file, save_file

ALL = np.ones(1024, np.bool_)


def load(rows: Any, path: object, checksums: dict[str, int]) -> int:
    return int(core.Load(rows, ALL).rows(str(path), checksums))


@pytest.fixture
def good(tmp_path: Path) -> tuple[Path, dict[str, int]]:
    rows = table(3)
    rows.push(random_ids(200), random_floats(200, 3), 0.1, 1)
    (file,) = save(rows, tmp_path / "good")
    return Path(file["path"]), file["checksums"]


def refuse(path: Path, checksums: dict[str, int], text: str, **changes: Any) -> None:
    rows = table(3, **changes)
    with pytest.raises(ValueError, match=text) as caught:
        load(rows, path, checksums)
    assert str(path) in str(caught.value) and rows.size == 0


def test_every_truncation(good: tuple[Path, dict[str, int]]) -> None:
    path, checksums = good
    whole = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, 500, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        refuse(path, checksums, "truncated|too short|header")
    path.write_bytes(whole + b"x")
    refuse(path, checksums, "its header announces")


def test_every_kind_of_flipped_byte(good: tuple[Path, dict[str, int]]) -> None:
    path, checksums = good
    whole = path.read_bytes()
    data = 8 + struct.unpack("<Q", whole[:8])[0]
    rng = np.random.default_rng(1)
    places = [*range(0, data, 5), data, data + 8 * 200, len(whole) - 1, *rng.integers(data, len(whole), 40).tolist()]
    refused = 0
    for place in places:
        bad = bytearray(whole)
        bad[place] ^= 1 << int(rng.integers(0, 7))
        path.write_bytes(bad)
        rows = table(3)
        try:
            load(rows, path, checksums)
        except ValueError:
            refused += 1
            assert rows.size == 0
        else:  # only what has no meaning may change: spaces pad the header
            assert place < data and rows.size == 200
        if place >= data:
            assert rows.size == 0, f"byte {place} of the data was not checked"
    assert refused > len(places) // 2


def test_other_tables(good: tuple[Path, dict[str, int]]) -> None:
    path, checksums = good
    rows = table(4)
    with pytest.raises(ValueError, match="it has dim 3, the table has dim 4"):
        load(rows, path, checksums)
    refuse(path, checksums, "it has optimizer adagrad, the table has optimizer sgd", optimizer="sgd")
    refuse(path, checksums, "it has salt 11, the table has salt 12", salt=12)


def test_other_checksums(good: tuple[Path, dict[str, int]]) -> None:
    path, checksums = good
    wrong = {**checksums, "weights": checksums["weights"] ^ 1}
    refuse(path, wrong, r"CRC-32 of its tensor weights is 0x[0-9a-f]{8}.*bytes \d+ to \d+")
    refuse(path, {}, "checksums are not those of its tensors")
    foreign = {"momentum" if name == "state" else name: crc for name, crc in checksums.items()}
    refuse(path, foreign, "no checksum for its tensor state")


def metadata(path: Path) -> dict[str, str]:
    raw = path.read_bytes()
    return dict(json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])["__metadata__"])


def test_foreign_files(good: tuple[Path, dict[str, int]]) -> None:
    path, checksums = good
    tensors, about = load_file(str(path)), metadata(path)
    save_file(tensors, path)
    refuse(path, checksums, "not a table's snapshot")
    nan = tensors["weights"].copy()
    nan[7, 1], nan[9, 2] = np.nan, np.inf
    for change, text in [
        ({"weights": tensors["weights"].astype(np.float64)}, r"weights is F64\[200, 3\], the table needs F32\[200, 3\]"),
        ({"weights": tensors["weights"].reshape(-1)}, r"weights is F32\[600\], the table needs F32\[200, 3\]"),
        ({"keys": tensors["keys"].astype(np.int64)}, "keys is I64"),
        ({"more": np.zeros(1, np.uint8)}, "tensors that no table has"),
        ({"weights": nan}, "2 NaN or infinite values in its tensor weights"),
        ({"state": nan}, "2 NaN or infinite values in its tensor state"),
    ]:
        changed = {**tensors, **change}
        save_file(changed, path, about)
        refuse(path, {name: zlib.crc32(t.tobytes()) for name, t in changed.items()}, text)
    path.write_text("label,I1,I2\n1,2,3\n")
    refuse(path, checksums, "header")
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    refuse(path, checksums, "header announces 1152921504606846976 bytes")


@pytest.mark.parametrize(
    "header",
    ["", "{", "[]", '{"keys":1}', '{"keys":{"shape":[1', '{"a":{}} x', '{"__metadata__":{"a":1}}', '{"a":{"dtype":"\\u0041"}}',
     '{"keys":{"dtype":"U64","shape":[99999999999999999999999],"data_offsets":[0,8]}}', '{"\x00', "{" * 5000],
)  # fmt: skip
def test_headers_that_make_no_sense(header: str, tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(64))
    refuse(path, {"keys": 0, "weights": 0, "state": 0}, "header")


def test_offsets_that_lie(good: tuple[Path, dict[str, int]]) -> None:
    path, checksums = good
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    for begin, end in [(0, 2**62), (2**63, 8), (1600, 0), (10**15, 10**15 + 1600)]:
        header = json.loads(raw[8 : 8 + length])
        header["keys"]["data_offsets"] = [begin, end]
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
        refuse(path, checksums, "tensor keys lies at bytes|header")


def test_files_sorted_otherwise_by_another_writer(good: tuple[Path, dict[str, int]]) -> None:
    """The safetensors package orders tensors in its own way: offsets decide, not the order."""
    path, checksums = good
    tensors, about = load_file(str(path)), metadata(path)
    save_file(tensors, path, about)
    rows = table(3)
    assert load(rows, path, checksums) == 200
    np.testing.assert_array_equal(rows.read(tensors["keys"])[2], tensors["state"])


def test_system_errors(tmp_path: Path) -> None:
    rows = table(3)
    pulled(rows, random_ids(10), create=True)
    for call, number in [
        (lambda: load(rows, tmp_path / "none", {}), errno.ENOENT),
        (lambda: load(rows, tmp_path, {}), errno.EISDIR),
        (lambda: save(rows, tmp_path / "no" / "dir"), errno.ENOENT),
    ]:
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == number and str(tmp_path) in str(caught.value.filename)
    assert rows.size == 10 and core.core_info()["num_shards"] == 1024
