"""Files that are on the disk once the call returns, and how to tell that they are still what was written."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import zlib
from collections.abc import Iterator
from typing import Any

from fleet.errors import SnapshotError

NAMES = "StructuredToParameterName@@"  # Paddle's key for {name in the model: name of the tensor} in a file of weights


def write_bytes(path: str, data: bytes) -> None:
    """Write a small file and make it durable."""
    with _named(path), open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def save_paddle(state: Any, path: str) -> None:
    """Let Paddle write a state dict and make it durable."""
    import paddle

    with _named(path):
        paddle.save(state, path)
        _sync(path)


def sync(path: str) -> None:
    """Make a file that somebody else wrote durable."""
    _sync(path)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    _sync(path)


def checksum(path: str) -> list[int]:
    """Return [bytes, crc32] of a file."""
    size = crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return [size, crc]


def json_checksum(value: Any) -> int:
    """Return the crc32 of a value's JSON, whatever the order and the spaces of the text it came from."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def read_paddle(path: str) -> dict[str, Any]:
    """Return what Paddle saved, its table of names included."""
    import paddle

    fix = "give a file that fleet.save or paddle.save wrote"
    unreadable = (OSError, ValueError, RuntimeError, EOFError, LookupError, TypeError, AttributeError, ImportError)
    try:
        state = paddle.load(path, keep_name_table=True)
    except (*unreadable, pickle.PickleError) as error:
        raise SnapshotError(f"Paddle cannot read the file: {type(error).__name__}: {error}", at=path, fix=fix) from None
    if not isinstance(state, dict):
        raise SnapshotError(f"the file holds a {type(state).__name__}, not a state dict", at=path, fix=fix)
    return state


def check_shapes(mine: dict[str, Any], theirs: dict[str, Any], path: str) -> None:
    missing = sorted(set(mine) ^ set(theirs))
    if missing:
        what = f"the model and the file differ in {', '.join(missing[:5])}" + (" ..." if len(missing) > 5 else "")
        raise SnapshotError(what, at=path, fix="load it with the model that it was saved with")
    for name, value in mine.items():
        if list(value.shape) != list(theirs[name].shape):
            what = f"{name} has shape {list(theirs[name].shape)} in the file, {list(value.shape)} in the model"
            raise SnapshotError(what, at=path, fix="load it with the model that it was saved with")


def remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Let an error of writing name its file; the operating system's own does only for open()."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
