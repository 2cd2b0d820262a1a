"""The text in which Paddle's parameter server (2.x) saves its tables, as arrays: a block of lines at a time, plain or gzipped.

A sparse table is ``DIR/NNN/part-SSS-NNNNN[.gz]``, one file a shard, ``key numbers...`` a line; a dense one is
``DIR/NNN/part-SSS[.gz]``, one file a server, a line for each value. ``paddle_rules.py`` says what the numbers are.
"""

from __future__ import annotations

import gzip
import os
import re
import warnings
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fleet.errors import SnapshotError

BLOCK_BYTES = 16 << 20  # of text in memory at once; the arrays of a block are some times that
SPARSE, DENSE = re.compile(r"part-(\d{3,})-(\d{5,})(?:\.gz)?$"), re.compile(r"part-(\d{3,})(?:\.gz)?$")
DIGITS = 20  # of the largest uint64
_NUMBER = re.compile(rb"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
_END = b"8.589973e+33"  # behind the last number: it is read only if all before it are numbers
_SAVE_AGAIN = "copy the directory again, whole, or save it again"


class Lines(NamedTuple):
    """Some whole lines of one file."""

    path: str
    first: int  # number of the first line, counted from 1
    keys: NDArray[np.uint64]  # [n]; empty in a dense table
    starts: NDArray[np.int64]  # [n + 1]: line i has numbers[starts[i]:starts[i + 1]]
    numbers: NDArray[np.float32]

    def refuse(self, line: int, what: str, fix: str = _SAVE_AGAIN) -> SnapshotError:
        """Return the error of a line, counted from 0 in this block."""
        return SnapshotError(what, at=f"{self.path}:{self.first + line}", fix=fix)


def parts_of(directory: str, table: int, form: re.Pattern[str]) -> list[str]:
    """Return the files of a table, in the order of their shards or servers.

    Raises:
        SnapshotError: there are none, one is missing or there twice, or something else lies there.
    """
    folder = os.path.join(os.path.abspath(directory), f"{table:03d}")
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        there = sorted(name for name in _listed(directory) if name.isdigit())
        fix = f"give a directory that save_persistables wrote; tables in it: {', '.join(there) or 'none'}"
        raise SnapshotError(f"no table {table}: {error.strerror}", at=folder, fix=fix) from None
    found: dict[int, str] = {}
    for name in names:
        match = form.match(name)
        if match is None:
            kind = "sparse" if form is SPARSE else "dense"
            fix = "give a sparse table to --table and a dense one to --dense; move what Paddle did not write away"
            raise SnapshotError(f"this is no part of a {kind} table", at=os.path.join(folder, name), fix=fix)
        number = int(match.groups()[-1])
        if number in found:
            what = f"{found[number]} is the same part of the table"
            raise SnapshotError(what, at=os.path.join(folder, name), fix="move the older of the two away")
        found[number] = name
    missing = next((i for i in range(len(found)) if i not in found), None)
    if not found or missing is not None:
        raise SnapshotError(f"part {missing or 0} of the table is missing", at=folder, fix=_SAVE_AGAIN)
    return [os.path.join(folder, found[i]) for i in range(len(found))]


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def lines_of(path: str, keyed: bool) -> Iterator[Lines]:
    """Yield the lines of a file.

    Raises:
        SnapshotError: it cannot be read, was cut off, or a line holds something else than numbers.
    """
    first, rest = 1, b""
    try:
        with _opened(path) as file:
            while block := file.read(BLOCK_BYTES):
                end = block.rfind(b"\n") + 1
                if end:
                    lines = _parse(path, first, rest + block[:end], keyed)
                    yield lines
                    first, rest = first + len(lines.starts) - 1, block[end:]
                else:
                    rest += block
    except (OSError, EOFError, zlib.error) as error:
        raise SnapshotError(f"the file cannot be read: {error}", at=path, fix=_SAVE_AGAIN) from None
    if rest:
        raise SnapshotError("the file was cut off: its last line has no end", at=f"{path}:{first}", fix=_SAVE_AGAIN)


def _opened(path: str) -> BinaryIO:
    return gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")  # type: ignore[return-value]


def _parse(path: str, first: int, text: bytes, keyed: bool) -> Lines:
    """Parse whole lines: fields with one space between them."""
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    begins = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])
    seps = np.flatnonzero((data == ord(" ")) | (data == ord("\n")))
    empty = np.diff(seps, prepend=-1) == 1
    num_fields = np.diff(np.searchsorted(seps, ends, side="right"), prepend=0)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(num_fields - int(keyed))])
    bad = Lines(path, first, np.zeros(0, np.uint64), starts, np.zeros(0, np.float32))
    if empty.any():
        raise bad.refuse(int(np.searchsorted(ends, seps[np.argmax(empty)])), "the line is empty, or has an empty field")
    keys = np.zeros(0, np.uint64)
    if keyed:
        if (num_fields < 2).any():
            raise bad.refuse(int(np.argmax(num_fields < 2)), "the line has no numbers behind its key")
        spaces = seps[np.searchsorted(seps, begins)]
        keys, wrong = _keys(data, begins, spaces)
        if wrong.any():
            raise bad.refuse(int(np.argmax(wrong)), "the key is no integer from 0 to 2**64 - 1")
        data = _without_keys(data, begins, spaces)
    numbers = _numbers(data.tobytes())
    if len(numbers) != starts[-1] or not np.isfinite(numbers).all():
        raise _first_bad(bad, text, keyed)
    return Lines(path, first, keys, starts, numbers)


def _numbers(text: bytes) -> NDArray[np.float32]:
    """Return the numbers of a text; another number of them than fields if one is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a field that is no number, or too large: whoever counts sees it
        try:
            found: NDArray[np.float32] = np.fromstring(text + _END, dtype=np.float32, sep=" ")
        except ValueError:
            return np.zeros(0, np.float32)
    reached = len(found) > 0 and found[-1] == np.float32(_END)
    return found[:-1] if reached else np.zeros(0, np.float32)


def _first_bad(lines: Lines, text: bytes, keyed: bool) -> SnapshotError:
    for i, line in enumerate(text.split(b"\n")):
        for j, field in enumerate(line.split(b" ")[int(keyed) :]):
            if not _NUMBER.match(field) or not abs(float(field)) <= float(np.finfo(np.float32).max):
                shown = field[:40].decode(errors="replace")
                return lines.refuse(i, f"field {j + 1 + int(keyed)} of the line is no finite number: {shown!r}")
    return lines.refuse(0, "these lines are no numbers")


def _keys(
    data: NDArray[np.uint8], begins: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return the integers that stand at data[begins:ends], and which of them are none."""
    lengths = ends - begins
    value, bad = np.zeros(len(begins), np.uint64), (lengths < 1) | (lengths > DIGITS)
    for place in range(min(DIGITS, int(lengths.max(initial=0)))):  # of all lines at once
        there = place < lengths
        digit = np.where(there, data[np.minimum(begins + place, len(data) - 1)] - np.uint8(ord("0")), np.uint8(0))
        bad |= digit > 9
        larger = value * np.uint64(10) + digit
        if place == DIGITS - 1:
            bad |= there & ((value > (2**64 - 1) // 10) | (larger < digit))
        value = np.where(there, larger, value)
    return value, bad


def _without_keys(data: NDArray[np.uint8], begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the text with spaces in place of the keys: as floats they would lose digits."""
    change = np.zeros(len(data) + 1, np.int8)
    change[begins] += 1
    change[ends] -= 1
    return np.where(np.cumsum(change[:-1], dtype=np.int8) > 0, np.uint8(ord(" ")), data)
