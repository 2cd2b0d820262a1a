"""``merge``: a full snapshot out of a chain, table by table and file by file."""

from __future__ import annotations

import os
import shutil
import uuid
import zlib
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np

from fleet import disk
from fleet.errors import SnapshotError
from fleet.parameter_server.freeze import header
from fleet.parameter_server.snapshot import manifest as manifests
from fleet.parameter_server.snapshot.manifest import Link
from fleet.parameter_server.snapshot.places import newest_in
from fleet.parameter_server.snapshot.reading import Tensors, rows_of, spec_of

FILE_BYTES = 64 << 20  # of rows in one file, as servers write them
_KINDS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def merge(core: Any, directory: str, target: str) -> Link:
    """Write what a chain loads to as one full snapshot; return it.

    It has an id of its own: deltas of the chain still need the chain.
    Memory: two files of rows, and 8 bytes for each row of the deltas in one server's shards.

    Raises:
        SnapshotError: ``target`` exists, the chain is incomplete or damaged, or the disk refused; ``target`` is not there then.
    """
    chain = manifests.chain(newest_in(directory))
    target = os.path.abspath(target)
    if os.path.lexists(target):
        raise SnapshotError("there is something here already", at=target, fix="give --to a directory that does not exist")
    temporary = os.path.join(os.path.dirname(target), f".tmp-{os.path.basename(target)}-{uuid.uuid4().hex[:8]}")
    try:
        os.makedirs(temporary)
        newest = chain[0].manifest
        tables = {}
        for name, table in newest["tables"].items():
            parts = [_merge_part(core, chain, name, part, temporary) for part in table["parts"]]
            tables[name] = {"spec": table["spec"], "parts": parts}
        manifests.write(temporary, {**newest, "id": uuid.uuid4().hex, "parent": None, "tables": tables})
        os.rename(temporary, target)
        disk.sync_directory(os.path.dirname(target))
    except OSError as error:
        fix = "free space or give another directory; nothing was changed"
        raise SnapshotError(f"cannot write: {error.strerror}", at=str(error.filename or target), fix=fix) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifests.read(target)


def _merge_part(core: Any, chain: list[Link], table: str, part: dict[str, Any], directory: str) -> dict[str, Any]:
    folder = quote(table, safe="")
    os.makedirs(os.path.join(directory, folder), exist_ok=True)
    files: list[dict[str, Any]] = []
    waiting: list[Tensors] = []

    def write() -> None:
        file = f"{folder}/part-{part['server']:04d}-{len(files):05d}.safetensors"
        files.append({"file": file, **_write_rows(core, chain[0], table, waiting, os.path.join(directory, file))})
        waiting.clear()

    low, high = part["shards"]
    for rows in rows_of(core, chain, table, low, high):
        if waiting and sum(tensor.nbytes for each in [*waiting, rows] for tensor in each.values()) > FILE_BYTES:
            write()
        waiting.append(rows)
    if waiting:
        write()
    disk.sync_directory(os.path.join(directory, folder))
    return {**part, "complete": True, "rows": sum(file["rows"] for file in files), "files": files, "removed": None}


def _write_rows(core: Any, link: Link, table: str, blocks: list[Tensors], path: str) -> dict[str, Any]:
    spec = spec_of(link, table)
    kinds = {"keys": "U64", "weights": _KINDS[spec.weights], "state": _KINDS[spec.state], "life": "F32", "seen": "U16"}
    names = [name for name in kinds if name in blocks[0]]
    num_rows = sum(len(block["keys"]) for block in blocks)
    shapes = {name: (kinds[name], [num_rows, *blocks[0][name].shape[1:]]) for name in names}
    sizes = {name: sum(block[name].nbytes for block in blocks) for name in names}
    empty = spec.make(core)
    metadata = {"format": "fleet.table.2", "optimizer": empty.optimizer, "dim": str(spec.dim), "state_dim": str(empty.state_dim),
                "salt": str(spec.salt)}  # fmt: skip
    with open(path, "wb") as file:
        file.write(header(shapes, sizes, metadata))
        checksums = {name: _write_tensor(file, [block[name] for block in blocks]) for name in names}
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    return {"rows": num_rows, "bytes": size, "checksums": checksums}


def _write_tensor(file: BinaryIO, arrays: list[Any]) -> int:
    crc = 0
    for array in arrays:
        data = np.ascontiguousarray(array).data.cast("B")
        file.write(data)
        crc = zlib.crc32(data, crc)
    return crc
