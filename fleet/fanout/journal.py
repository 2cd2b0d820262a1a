"""What is finished: one file, only ever appended to, written before anybody sees a result.

A record is one line ``CRC LENGTH JSON`` and LENGTH bytes of pickled value::

    9a3c01f2 5 {"key":"...","path":"3","level":0,"state":"ok","seconds":0.013,"attempts":1,"places":[]}
    <5 bytes>

Records are gathered while the driver handles one wake-up and go out in one write(2), which survives the death of the driver by any
signal. They are not fsynced one by one: at a loss of *power* the last seconds may be gone (they run again); `close` fsyncs. The
CRC covers length, JSON and value, so a record that was cut is known, and removed when the journal is opened again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from fleet.errors import SnapshotError
from fleet.fanout.parcel import Packed, Place

HEAD = b"fleet fan-out journal 1\n"


class Entry(NamedTuple):
    """A record that was read back. ``offset`` and ``size``: its value in the file."""

    key: str
    path: str
    level: int
    state: str
    seconds: float
    attempts: int
    places: list[list[Any]]
    offset: int
    size: int


class Journal:
    """The file ``journal`` of a run directory. One process writes it (the run directory is locked)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._records: list[bytes] = []
        self._known: dict[str, Entry] = {}
        self._keys: dict[tuple[str, int], list[str]] = {}  # of a (path, level): they say why a member runs again
        fresh = not os.path.exists(path) or os.path.getsize(path) == 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._end = self._write_at(0, HEAD) if fresh else self._read()

    def find(self, key: str) -> Entry | None:
        """Return the finished record of a key."""
        return self._known.get(key)

    def keys(self, path: str, level: int) -> list[str]:
        """Return the keys under which a member of this place has ended, well or not, oldest first."""
        return self._keys.get((path, level), [])

    def __len__(self) -> int:
        return len(self._known)

    def value(self, entry: Entry) -> Packed:
        """Read a value back; its large buffers lie in files of the same directory."""
        root = os.path.dirname(self.path)
        body = os.pread(self._file, entry.size, entry.offset)
        return Packed(body, tuple(Place(os.path.join(root, path), start, size) for path, start, size in entry.places))

    def add(
        self, key: str, path: str, level: int, state: str, seconds: float, attempts: int, value: Packed | None, error: str
    ) -> None:
        """Note one finished member; it is in the file after the next `flush`."""
        body, places = value or (b"", ())
        files = "[]"
        if places:
            root = os.path.dirname(self.path)
            files = json.dumps([[os.path.relpath(place.path, root), place.offset, place.size] for place in places])
        said = f',"error":{json.dumps(error)}' if error else ""
        rest = (
            f'{len(body)} {{"key":"{key}","path":"{path}","level":{level},"state":"{state}","seconds":{seconds:.6f},'
            f'"attempts":{attempts},"places":{files}{said}}}\n'
        ).encode()
        self._records.append(b"%08x %b%b\n" % (zlib.crc32(body, zlib.crc32(rest)), rest, body))

    def flush(self) -> None:
        """Write what was added, in one piece.

        Raises:
            SnapshotError: the disk is full or broken; the file ends with its last whole record.
        """
        if self._records:
            batch = b"".join(self._records)
            self._records.clear()
            self._end = self._write_at(self._end, batch)

    def close(self) -> None:
        """Make everything durable and let the file go."""
        if self._file >= 0:
            try:
                os.fsync(self._file)
            finally:
                os.close(self._file)
                self._file = -1

    def _write_at(self, end: int, data: bytes) -> int:
        start = end
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._file, view, end)
                end, view = end + written, view[written:]
        except OSError as error:
            os.ftruncate(self._file, start)
            raise SnapshotError(
                f"the journal cannot be written: {error.strerror}; what was shown so far is in it",
                at=self.path,
                fix="make room and run again with cache='run', which runs only what is missing",
            ) from error
        return end

    def _read(self) -> int:
        with open(self.path, "rb") as file:
            data = file.read()
        if not data.startswith(HEAD):
            if HEAD.startswith(data):  # killed while it was being made
                os.ftruncate(self._file, 0)
                return self._write_at(0, HEAD)
            self._damaged(0, "it does not begin as a journal does")
        end = len(HEAD)
        for entry, after in _records(data, end):
            if entry.state in ("ok", "dropped"):
                self._known[entry.key] = entry
            self._keys.setdefault((entry.path, entry.level), []).append(entry.key)
            end = after
        if end < len(data):
            if _looks_whole(data, end):
                self._damaged(end, "a record in it does not match its checksum")
            os.ftruncate(self._file, end)  # the last record was cut by a loss of power or a full disk
        return end

    def _damaged(self, offset: int, why: str) -> None:
        raise SnapshotError(
            f"the journal is damaged at byte {offset}: {why}",
            at=self.path,
            fix=f"`truncate -s {offset} {self.path}` keeps the members before it; or take another run_dir",
        )


def _records(data: bytes, offset: int) -> Iterator[tuple[Entry, int]]:
    """Yield the whole records from an offset on, each with the offset behind it; stop at the first that is not whole."""
    while offset < len(data):
        newline = data.find(b"\n", offset)
        fields = data[offset:newline].split(b" ", 2) if newline > 0 else []
        if len(fields) != 3 or not fields[1].isdigit():
            return
        start, size = newline + 1, int(fields[1])
        rest, body = data[offset + 9 : start], data[start : start + size]
        if len(body) < size or data[start + size : start + size + 1] != b"\n":
            return
        if b"%08x" % zlib.crc32(body, zlib.crc32(rest)) != fields[0]:
            return
        said = json.loads(fields[2])
        offset = start + size + 1
        said.pop("error", None)
        yield Entry(**said, offset=start, size=size), offset


def _looks_whole(data: bytes, end: int) -> bool:
    """Say whether anything valid follows a record that is not: then it was damaged, not cut."""
    at = end
    while (at := data.find(b"\n", at)) >= 0:
        at += 1
        if next(_records(data, at), None) is not None:
            return True
    return False
