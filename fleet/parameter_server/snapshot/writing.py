"""A snapshot that is made without servers: its directory, and its files of rows."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np

from fleet import disk
from fleet.errors import SnapshotError
from fleet.parameter_server.freeze import header
from fleet.parameter_server.snapshot.reading import Tensors
from fleet.parameter_server.spec import TableSpec

FILE_BYTES = 64 << 20  # of rows in one file, as servers write them
_KINDS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@contextlib.contextmanager
def new_directory(target: str) -> Iterator[str]:
    """Give an empty directory that becomes ``target`` at the end, and goes if that is not reached.

    Raises:
        SnapshotError: ``target`` exists, or the disk refused.
    """
    target = os.path.abspath(target)
    if os.path.lexists(target):
        raise SnapshotError("there is something here already", at=target, fix="give --to a directory that does not exist")
    temporary = os.path.join(os.path.dirname(target), f".tmp-{os.path.basename(target)}-{uuid.uuid4().hex[:8]}")
    try:
        os.makedirs(temporary)
        yield temporary
        os.rename(temporary, target)
        disk.sync_directory(os.path.dirname(target))
    except OSError as error:
        fix = "free space or give another directory; nothing was changed"
        raise SnapshotError(f"cannot write: {error.strerror}", at=str(error.filename or target), fix=fix) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_part(core: Any, spec: TableSpec, part: dict[str, Any], rows: Iterator[Tensors], directory: str) -> dict[str, Any]:
    """Write rows as files of one server's part of a table; return the part, complete.

    Memory: two files of rows, or of what ``rows`` yields at once.
    """
    folder = quote(spec.name, safe="")
    os.makedirs(os.path.join(directory, folder), exist_ok=True)
    files: list[dict[str, Any]] = []
    waiting: list[Tensors] = []

    def write() -> None:
        file = f"{folder}/part-{part['server']:04d}-{len(files):05d}.safetensors"
        files.append({"file": file, **_write_rows(core, spec, waiting, os.path.join(directory, file))})
        waiting.clear()

    for block in rows:
        if waiting and sum(tensor.nbytes for each in [*waiting, block] for tensor in each.values()) > FILE_BYTES:
            write()
        waiting.append(block)
    if waiting:
        write()
    disk.sync_directory(os.path.join(directory, folder))
    num_rows = sum(file["rows"] for file in files)
    return {**part, "complete": True, "rows": num_rows, "files": files, "removed": None, "waiting": None}


def _write_rows(core: Any, spec: TableSpec, blocks: list[Tensors], path: str) -> dict[str, Any]:
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
