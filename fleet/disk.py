"""Files that are on the disk once the call returns, and how to tell that they are still what was written.

Everything that a save does to files goes through here, one operation at a time: a test lets any of them fail.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from fleet.errors import SnapshotError

NAMES = "StructuredToParameterName@@"  # Paddle's key for {name in the model: name of the tensor} in a file of weights
BLOCK_BYTES = 1 << 20  # of one write

Checksum = list[int]  # [bytes, crc32]

# A test's: called with (operation, path) before each operation; what it raises is what the operating system would.
fault: Callable[[str, str], None] | None = None


class Writing:
    """A file that is being written, counted and summed on the way; durable once it is closed. ``with`` closes it."""

    def __init__(self, path: str) -> None:
        self._path, self._size, self._crc = path, 0, 0
        self._small = bytearray()
        with _operation("create", path):
            self._file = open(path, "wb", buffering=0)  # closed by __exit__

    def write(self, data: Any) -> int:
        """Take bytes or whatever lies like bytes in memory; large ones are not copied."""
        with memoryview(data) as view, view.cast("B") as flat:
            if len(flat) < BLOCK_BYTES:
                self._small += flat
                if len(self._small) >= BLOCK_BYTES:
                    self._flush()
            else:
                self._flush()
                for start in range(0, len(flat), BLOCK_BYTES):
                    self._put(flat[start : start + BLOCK_BYTES])
            return len(flat)

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                with _operation("fsync", self._path):
                    os.fsync(self._file.fileno())
        finally:
            self._file.close()

    @property
    def checksum(self) -> Checksum:
        """Return [bytes, crc32] of what was written."""
        return [self._size, self._crc]

    def _flush(self) -> None:
        small, self._small = self._small, bytearray()
        if small:
            self._put(memoryview(small))

    def _put(self, view: memoryview) -> None:
        self._size, self._crc = self._size + len(view), zlib.crc32(view, self._crc)
        while len(view):
            with _operation("write", self._path):
                view = view[self._file.write(view) :]


def write_bytes(path: str, data: bytes) -> Checksum:
    """Write a small file and make it durable."""
    with Writing(path) as file:
        file.write(data)
    return file.checksum


def write_pickle(path: str, value: Any) -> Checksum:
    """Pickle a value and make it durable; NumPy arrays go to the file from where they lie."""
    with Writing(path) as file:
        pickle.dump(value, file, protocol=5)  # 4, which Paddle writes, copies every array while it holds the interpreter
    return file.checksum


def save_paddle(state: Any, path: str) -> Checksum:
    """Write a state dict as Paddle reads it, and make it durable."""
    return write_pickle(path, as_paddle_saves(state, lambda _, tensor: numpy_of(tensor)))


def as_paddle_saves(state: Any, copy: Callable[[str, Any], Any]) -> Any:
    """Return what ``paddle.save`` would pickle of a state dict: arrays in place of tensors, and their names.

    Args:
        copy: makes an array of a tensor; its first argument names the tensor's place.
    """
    import paddle

    if not any(_holds_tensors(value, paddle.Tensor) for value in state.values() if isinstance(value, dict)):
        names = {key: value.name for key, value in state.items() if isinstance(value, paddle.Tensor)}
        plain = {key: copy(key, value) if key in names else value for key, value in state.items()}
        return {**plain, NAMES: names}

    def nested(value: Any, place: str) -> Any:
        if isinstance(value, paddle.Tensor):
            return value.name, copy(place, value)
        return {key: nested(v, f"{place}/{key}") for key, v in value.items()} if isinstance(value, dict) else value

    return nested(state, "")


def _holds_tensors(value: Any, kind: type) -> bool:
    return any(_holds_tensors(v, kind) for v in value.values()) if isinstance(value, dict) else isinstance(value, kind)


def numpy_of(tensor: Any) -> Any:
    """Return a tensor's values as Paddle saves them."""
    import numpy as np

    return np.array(tensor.cpu())


def make_directory(path: str) -> None:
    """Make a directory; its parent is there."""
    with _operation("mkdir", path):
        os.mkdir(path)


def make_directories(path: str) -> None:
    """Make a directory and what is missing above it."""
    with _operation("mkdir", path):
        os.makedirs(path, exist_ok=True)


def rename(path: str, target: str) -> None:
    """Give a file or directory another name; a file that has it is replaced."""
    with _operation("rename", path):
        os.replace(path, target)


def remove(path: str) -> None:
    """Remove a file, if it is there."""
    with _operation("unlink", path), contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_tree(path: str) -> None:
    """Remove a directory with all that is in it, as far as that is possible; nothing if it is not there."""
    for folder, folders, files in os.walk(path, topdown=False):
        for name in files:
            with contextlib.suppress(OSError), _operation("unlink", os.path.join(folder, name)):
                os.unlink(os.path.join(folder, name))
        for name in folders:
            with contextlib.suppress(OSError), _operation("rmdir", os.path.join(folder, name)):
                os.rmdir(os.path.join(folder, name))
    with contextlib.suppress(OSError), _operation("rmdir", path):
        os.rmdir(path)


def sync(path: str) -> None:
    """Make a file that somebody else wrote durable."""
    _sync(path)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    _sync(path)


def checksum(path: str) -> Checksum:
    """Return [bytes, crc32] of a file."""
    size = crc = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
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
    """Check that a file holds this model.

    Raises:
        SnapshotError: it does not; names what is missing, what is left over, and what has another shape.
    """
    fix = "load it with the model that it was saved with"
    lines = [f"the file has no {name}" for name in sorted(set(mine) - set(theirs))]
    lines += [f"the model has no {name}" for name in sorted(set(theirs) - set(mine))]
    for name, value in mine.items():
        if name in theirs and list(value.shape) != list(theirs[name].shape):
            lines.append(f"{name} has shape {list(theirs[name].shape)} in the file, {list(value.shape)} in the model")
    if lines:
        more = f"; and {len(lines) - 8} more" if len(lines) > 8 else ""
        raise SnapshotError(f"another model: {'; '.join(lines[:8])}{more}", at=path, fix=fix)


@contextlib.contextmanager
def _operation(name: str, path: str) -> Iterator[None]:
    """One operation; its error names the file (the operating system's own does only for open())."""
    try:
        if fault is not None:
            fault(name, path)
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise


def _sync(path: str) -> None:
    with _operation("fsync", path):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
