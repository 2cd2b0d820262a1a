"""A decoded cache of raw text: NumPy arrays that are mapped into memory and train at its speed.

A pack is a directory: ``meta.json``, and the three ``.npy`` files that it names. ``meta.json`` is replaced last and
atomically, so a kill or a full disk at any moment leaves the pack that was there before.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fleet import disk
from fleet.data.bad_lines import MAX_BAD_LINES, LineCount
from fleet.data.criteo.batches import Batch, blocks
from fleet.data.criteo.layout import HASH, NUM_DENSE, NUM_SLOTS
from fleet.data.criteo.parse import Criteo
from fleet.data.source import Paths, files
from fleet.errors import ConfigError

FORMAT = "fleet criteo pack 1"

_META = "meta.json"
_HEADER_BYTES = 128
_ROWS: dict[str, tuple[str, tuple[int, ...]]] = {"ids": ("<i8", (NUM_SLOTS,)), "dense": ("<f4", (NUM_DENSE,)), "label": ("<f4", ())}
_ARRAY_FILE = re.compile("(" + "|".join(_ROWS) + r")-[0-9a-f]{8}\.npy")
_REPACK = "make it again: python -m fleet.data.criteo pack IN OUT"


def pack(
    paths: Paths,
    out: str | os.PathLike[str],
    *,
    num_buckets: int,
    num_readers: int | None = None,
    max_bad_lines: int = MAX_BAD_LINES,
) -> dict[str, Any]:
    """Parse raw text once and keep the arrays in the directory ``out``; return what ``meta.json`` says.

    A pack that is there already is replaced at the end, in one moment. Others that pack to the same place wait.

    Args:
        paths, num_buckets, num_readers, max_bad_lines: as in ``fleet.data.criteo.read``.

    Raises:
        ConfigError: nothing to read, not the format, too many bad lines, or ``out`` cannot be written; the old pack stays.
        PeerLost: a reader process ended; the old pack stays. Safe to pack again.

    Cost: 264 bytes of disk a sample.
    """
    target = Path(out)
    with locked(target):
        return _pack(paths, target, num_buckets, num_readers, max_bad_lines)


def open_pack(directory: str | os.PathLike[str], num_buckets: int | None = None) -> Batch:
    """Map a pack into memory, read only.

    Args:
        num_buckets: what the pack must have been made with, if that matters to the caller.

    Returns:
        ``{"ids": int64[n, 26], "dense": float32[n, 13], "label": float32[n]}``

    Raises:
        ConfigError: there is no pack, it is damaged, or it was made in another way.
    """
    while True:
        meta = read_meta(directory)
        if num_buckets is not None and meta["num_buckets"] != num_buckets:
            what = f"the pack was made with num_buckets={meta['num_buckets']}, not {num_buckets}"
            raise ConfigError(what, at=str(directory), fix=f"use num_buckets={meta['num_buckets']}, or {_REPACK}")
        try:
            return {name: _mapped(Path(directory) / meta["arrays"][name], name, meta["num_samples"]) for name in _ROWS}
        except ConfigError:
            if read_meta(directory)["arrays"] == meta["arrays"]:
                raise  # else it was replaced between our two looks


def read_meta(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what ``meta.json`` says: num_samples, num_buckets, hash, sources, num_lines, num_bad_lines, arrays.

    Raises:
        ConfigError: there is no pack, or it was made in another way.
    """
    path = Path(directory) / _META
    try:
        meta = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        fix = "make it: python -m fleet.data.criteo pack IN OUT"
        raise ConfigError("there is no pack here", at=str(directory), fix=fix) from None
    except ValueError:
        raise ConfigError("the pack's meta.json is not JSON", at=str(path), fix=_REPACK) from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        said = meta.get("format") if isinstance(meta, dict) else None
        raise ConfigError(f"this is not a pack of the format {FORMAT!r}, but {said!r}", at=str(path), fix=_REPACK)
    if meta["hash"] != HASH:
        raise ConfigError(f"the pack's ids are hashed by {meta['hash']!r}, now {HASH!r} is used", at=str(path), fix=_REPACK)
    return meta


@contextmanager
def locked(target: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the directory ``target`` (made if missing) against others that write it; the lock ends with the process."""
    path = Path(target)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        fix = "name a directory that can be written"
        raise ConfigError(f"cannot write here: {error.strerror}", at=str(path), fix=fix) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _pack(paths: Paths, target: Path, num_buckets: int, num_readers: int | None, max_bad_lines: int) -> dict[str, Any]:
    names = {name: f"{name}-{secrets.token_hex(4)}.npy" for name in _ROWS}
    written = [target / name for name in names.values()] + [target / f"{_META}.tmp"]
    if (target / _META).exists():
        read_meta(target)  # never write over something else's meta.json
    count = LineCount(max_bad_lines, Criteo.form)
    try:
        _write_arrays(blocks(paths, num_buckets, num_readers, count), target, names)
        meta = {
            "format": FORMAT,
            "hash": HASH,
            "num_buckets": num_buckets,
            "num_samples": count.num_samples,
            "num_lines": count.num_lines,
            "num_bad_lines": count.num_bad,
            "sources": [{"path": os.path.abspath(path), "bytes": os.path.getsize(path)} for path in files(paths)],
            "arrays": names,
        }
        with open(written[-1], "wb") as file:
            file.write(json.dumps(meta, indent=1).encode())
            _flush(file)
        os.replace(written[-1], target / _META)
    except BaseException as error:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            fix = "free some space, or name another directory; a pack that was there before is untouched"
            raise ConfigError(f"cannot write the pack: {error.strerror}", at=str(target), fix=fix) from error
        raise
    disk.sync_directory(str(target))
    for path in target.iterdir():  # those of the pack before, or of one that was killed; who has them mapped keeps them
        if _ARRAY_FILE.fullmatch(path.name) and path.name not in names.values():
            path.unlink()
    return meta


def _write_arrays(parsed: Iterable[Batch], target: Path, names: dict[str, str]) -> None:
    num_samples = 0
    with ExitStack() as stack:
        out = {name: stack.enter_context(open(target / names[name], "wb")) for name in _ROWS}
        for file in out.values():
            file.write(b"\0" * _HEADER_BYTES)
        for block in parsed:
            for name in _ROWS:
                out[name].write(np.ascontiguousarray(block[name]).data)
            num_samples += len(block["label"])
        for name, file in out.items():
            file.seek(0)
            file.write(_header(name, num_samples))
            _flush(file)


def _header(name: str, num_samples: int) -> bytes:
    """Return the first 128 bytes of a .npy file: NumPy's own writer must know the length beforehand."""
    kind, row = _ROWS[name]
    said = repr({"descr": kind, "fortran_order": False, "shape": (num_samples, *row)}).encode()
    return b"\x93NUMPY\x01\x00" + (_HEADER_BYTES - 10).to_bytes(2, "little") + said.ljust(_HEADER_BYTES - 11) + b"\n"


def _mapped(path: Path, name: str, num_samples: int) -> npt.NDArray[Any]:
    kind, row = _ROWS[name]
    num_bytes = _HEADER_BYTES + num_samples * int(np.prod(row, dtype=np.int64)) * np.dtype(kind).itemsize
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise ConfigError(f"the pack's array {path.name} is missing", at=str(path), fix=_REPACK) from None
    with open(path, "rb") as file:
        header = file.read(_HEADER_BYTES)
    if found != num_bytes:
        what = f"the pack's array {path.name} is cut off or foreign: {found} bytes instead of {num_bytes}"
        raise ConfigError(what, at=str(path), fix=_REPACK)
    if header != _header(name, num_samples):
        raise ConfigError(f"the pack's array {path.name} has a foreign header", at=str(path), fix=_REPACK)
    return np.memmap(path, np.dtype(kind), "r", _HEADER_BYTES, (num_samples, *row))


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
