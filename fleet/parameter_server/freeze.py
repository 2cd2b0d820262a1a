"""Tables that are only read: one file a table, made from a snapshot. ``frozen.py`` reads them, ``docs/export.md`` describes them.

Rows lie in the order of the hash of their key, so the same rows give the same bytes, whichever servers they came from.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from fleet import disk
from fleet.errors import SnapshotError
from fleet.parameter_server.snapshot import manifest
from fleet.parameter_server.spec import NUM_SHARDS, TableSpec

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # ours -> safetensors'
CHUNK_BYTES = 64 << 20  # of rows sorted at once: bounds the memory, whatever the size of the table
ROWS_PER_BUCKET = 4  # at least, on average, and below twice as many: their keys lie in one or two cache lines

U64 = NDArray[np.uint64]
Stored = NDArray[np.float32] | NDArray[np.uint16]  # rows as a table stores them: 16-bit floats as their bits


class Chunk(NamedTuple):
    """Rows of a few neighbouring shards, in the order of their hash."""

    hashes: U64
    keys: U64
    rows: Stored


def freeze(source: str, directory: str, dtype: str | None) -> dict[str, Any]:
    """Write every table of the snapshot at ``source`` below ``directory``; return what the manifest says of them, by name.

    Args:
        dtype: of the rows: float32, float16 or bfloat16 (rounded to nearest); None: as each table stores them.

    Raises:
        SnapshotError: the snapshot is missing or damaged.
        OSError: the disk refused.
    """
    os.makedirs(directory, exist_ok=True)
    found = {}
    saved = manifest.read(source).manifest
    if saved["parent"] is not None:
        fix = f"merge it with what it continues: python -m fleet.parameter_server.snapshot merge {source} DIR"
        raise SnapshotError("the snapshot is a delta", at=source, fix=fix)
    for name, table in saved["tables"].items():
        file = f"{quote(name, safe='')}.safetensors"
        spec = TableSpec.from_json(table["spec"])
        kept = dtype or spec.weights
        about = _write(os.path.join(directory, file), spec, source, table["parts"], kept)
        found[name] = {"spec": spec.to_json(), "file": f"tables/{file}", "dtype": kept, **about}
    disk.sync_directory(directory)
    return found


def hash_of(keys: U64, salt: int) -> U64:
    """Return the hash that decides where a key lies (core/mix.h): one to one, so that its order is an order of keys."""
    x: U64 = keys ^ np.uint64(salt)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x ^= x >> np.uint64(33)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(33)
    return x


def to_16_bits(rows: NDArray[np.float32], dtype: str) -> NDArray[np.uint16]:
    """Return the bits of ``rows`` as 16-bit floats, rounded to nearest, ties to even."""
    if dtype == "float16":
        with np.errstate(over="ignore"):  # beyond 65504: infinity, as Paddle's cast says
            return rows.astype(np.float16).view(np.uint16)
    wide = np.ascontiguousarray(rows).view(np.uint32)
    half = np.uint32(0x7FFF) + ((wide >> np.uint32(16)) & np.uint32(1))
    rounded: NDArray[np.uint16] = ((wide + half) >> np.uint32(16)).astype(np.uint16)
    rounded[np.isnan(rows)] = 0x7FC0
    return rounded


def _as(rows: Stored, stored: str, dtype: str) -> Stored:
    """Return rows that a table stores as ``stored`` in another form; to float32 it is exact."""
    if stored == dtype:
        return rows
    wide = rows.astype(np.float32, copy=False)
    if stored == "float16":
        wide = rows.view(np.float16).astype(np.float32)
    elif stored == "bfloat16":
        wide = (rows.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return wide if dtype == "float32" else to_16_bits(wide, dtype)


def _write(path: str, spec: TableSpec, source: str, parts: list[Mapping[str, Any]], dtype: str) -> dict[str, Any]:
    n = sum(int(part["rows"]) for part in parts)
    bits = max(0, (n // ROWS_PER_BUCKET).bit_length() - 1)
    counts = np.zeros(1 << bits, dtype=np.uint64)
    sizes = {"index": 8 * (len(counts) + 1), "keys": 8 * n, "rows": n * spec.dim * (4 if dtype == "float32" else 2)}
    shapes = {"index": ("U64", [len(counts) + 1]), "keys": ("U64", [n]), "rows": (DTYPES[dtype], [n, spec.dim])}
    head = header(shapes, sizes, {"format": "fleet frozen 1", "salt": str(spec.salt), "bits": str(bits)})
    at = dict(zip(sizes, np.cumsum([len(head), *sizes.values()]).tolist(), strict=False))
    crc = dict.fromkeys(sizes, 0)

    def put(file: BinaryIO, tensor: str, array: NDArray[Any]) -> None:
        data = np.ascontiguousarray(array).data.cast("B") if array.size else b""
        file.seek(at[tensor])
        file.write(data)
        at[tensor] += len(data)
        crc[tensor] = zlib.crc32(data, crc[tensor])

    with open(path, "wb") as file:
        file.write(head)
        for chunk in _chunks(spec, source, parts):
            put(file, "keys", chunk.keys)
            put(file, "rows", _as(chunk.rows, spec.weights, dtype))
            if len(chunk.keys):
                buckets = (chunk.hashes >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros(len(chunk.keys), np.int64)
                low = int(buckets[0])  # sorted
                many = np.bincount(buckets - low).astype(np.uint64)
                counts[low : low + len(many)] += many
        put(file, "index", np.concatenate([np.zeros(1, np.uint64), np.cumsum(counts, dtype=np.uint64)]))
        file.truncate(len(head) + sum(sizes.values()))
        file.flush()
        os.fsync(file.fileno())
    return {"rows": n, "bytes": len(head) + sum(sizes.values()), "checksums": crc}


def header(shapes: dict[str, tuple[str, list[int]]], sizes: dict[str, int], metadata: dict[str, str]) -> bytes:
    """Return the first bytes of a safetensors file, padded so that the data begins at a multiple of 64."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    begin = 0
    for name, (kind, shape) in shapes.items():
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, begin + sizes[name]]}
        begin += sizes[name]
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 64)
    return len(text).to_bytes(8, "little") + text


def _chunks(spec: TableSpec, source: str, parts: list[Mapping[str, Any]]) -> Iterator[Chunk]:
    """Yield a table's rows in the order of their hash: parts hold ranges of shards, and the shard is the hash's top bits.

    Memory: 4 bytes a row of one part, for the order of its shards, and a chunk.
    """
    most = max(1, CHUNK_BYTES // (4 * spec.dim + 16))
    for part in sorted(parts, key=lambda p: int(p["shards"][0])):
        files = [_ByShard(source, file, spec) for file in part["files"]]
        sums = np.cumsum([0, *sum((np.diff(file.starts) for file in files), np.zeros(NUM_SHARDS, np.int64)).tolist()])
        low = 0
        while sums[low] < sums[-1]:
            # As many whole shards as fit; one shard that is larger than that is taken whole.
            high = max(low + 1, int(np.searchsorted(sums, sums[low] + most, side="right")) - 1)
            taken = [file.rows(low, high) for file in files]
            keys, weights = np.concatenate([k for k, _ in taken]), np.concatenate([w for _, w in taken])
            hashes = hash_of(keys, spec.salt)
            order = np.argsort(hashes)
            yield Chunk(hashes[order], keys[order], weights[order])
            low = high


class _ByShard:
    """A file's rows, shard by shard."""

    def __init__(self, source: str, file: Mapping[str, Any], spec: TableSpec) -> None:
        path = os.path.join(source, file["file"])
        tensors = read_safetensors(path)
        _check(tensors, file, spec, path)
        self._keys, self._weights = tensors["keys"], tensors["weights"]
        shards = (hash_of(np.asarray(self._keys), spec.salt) >> np.uint64(54)).astype(np.uint16)
        self._order = np.argsort(shards, kind="stable").astype(np.uint32)
        self.starts = np.searchsorted(shards[self._order], np.arange(NUM_SHARDS + 1))

    def rows(self, low: int, high: int) -> tuple[U64, Stored]:
        """Return keys and weights of shards [low, high)."""
        order = self._order[self.starts[low] : self.starts[high]]
        return self._keys[order], self._weights[order]


def read_safetensors(path: str) -> dict[str, NDArray[Any]]:
    """Map the tensors of a safetensors file; bfloat16 and float16 come as the bits, uint16.

    Raises:
        SnapshotError: the file is missing, cut off, or none of this kind.
    """
    fix = "write it again; copy the files again if they were copied"
    kinds = {"U64": np.uint64, "F32": np.float32, "F16": np.uint16, "BF16": np.uint16, "U16": np.uint16, "U32": np.uint32,
             "U8": np.uint8}  # fmt: skip
    found: dict[str, NDArray[Any]] = {}
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = os.fstat(file.fileno()).st_size
            head = json.loads(file.read(min(length, size)))
        for name, about in head.items():
            if name == "__metadata__":
                continue
            begin, end = about["data_offsets"]
            kind, shape = np.dtype(kinds[about["dtype"]]), tuple(int(x) for x in about["shape"])
            if end - begin != kind.itemsize * int(np.prod(shape)) or not 0 <= begin <= end <= size - 8 - length or min(shape) < 0:
                raise SnapshotError(f"tensor {name!r} does not fit the file of {size} bytes", at=path, fix=fix)
            empty = begin == end  # nothing to map
            found[name] = np.zeros(shape, kind) if empty else np.memmap(path, kind, "r", 8 + length + begin, shape)
    except OSError as error:
        raise SnapshotError(f"cannot read a table: {error.strerror}", at=path, fix=fix) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SnapshotError(f"not a file of a table: {error!r}", at=path, fix=fix) from None
    return found


def _check(tensors: Mapping[str, NDArray[Any]], part: Mapping[str, Any], spec: TableSpec, path: str) -> None:
    n = int(part["rows"])
    if [tensors[t].shape for t in ("keys", "weights") if t in tensors] != [(n,), (n, spec.dim)]:
        fix = "take the snapshot before this one"
        raise SnapshotError(f"the file does not hold {n} rows of dim {spec.dim} of table {spec.name!r}", at=path, fix=fix)
    if tensors["weights"].dtype != (np.float32 if spec.weights == "float32" else np.uint16):
        what = f"the file does not hold {spec.weights} weights, as table {spec.name!r} stores them"
        raise SnapshotError(what, at=path, fix="take the snapshot before this one")
    for name in ("keys", "weights"):
        check_crc(name, tensors[name], part["checksums"], path)


def check_crc(name: str, tensor: NDArray[Any], checksums: Mapping[str, int], path: str) -> None:
    """Compare a tensor with the CRC-32 that a manifest gives for it.

    Raises:
        SnapshotError: it differs.
    """
    crc = 0
    rows = max(1, (4 << 20) // max(1, tensor.nbytes // max(1, len(tensor))))
    for start in range(0, len(tensor), rows):
        crc = zlib.crc32(np.ascontiguousarray(tensor[start : start + rows]).data.cast("B"), crc)
    if crc != checksums[name]:
        fix = "write it again; copy the files again if they were copied"
        raise SnapshotError(f"tensor {name!r} is damaged: its checksum differs from the manifest's", at=path, fix=fix)
