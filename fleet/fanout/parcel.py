"""A value on its way between processes: pickled, its large buffers beside it in files that are mapped, not copied.

A `Packed` is what travels: a small pickle and the places of the buffers that were too large to go with it. Whoever unpacks it
maps each place privately (copy on write): arrays come back writable, nobody sees another member's changes, and pages that are
only read are shared by all workers.
"""

from __future__ import annotations

import mmap
import os
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

BUFFER_BYTES = 1 << 20  # below it a copy through the pipe (0.1 ms) is cheaper than a file and a mapping
BODY_BYTES = 16 << 20  # a pickle above it goes to a file too: neither the pipe nor the journal shall hold it
_SMALL = frozenset({int, float, bool, type(None), complex})
ALIGNMENT = 64  # of buffers in a file: what vector loads like


class Place(NamedTuple):
    """Where a buffer lies: ``size`` bytes of a file."""

    path: str
    offset: int
    size: int


class Packed(NamedTuple):
    """A pickled value. An empty body means that the body itself lies at the first place."""

    body: bytes
    places: tuple[Place, ...] = ()


Keep = Callable[[list[memoryview]], list[Place]]  # puts buffers somewhere and says where


def pack(value: Any, keep: Keep | None = None) -> Packed:
    """Pickle a value; buffers of 1 MB and more, and a body above 16 MB, go where ``keep`` puts them (None: nowhere).

    Raises:
        Exception: whatever the value's own pickling raises; :mod:`fleet.fanout.blame` finds the variable.
    """
    if type(value) in _SMALL:
        return Packed(pickle.dumps(value, 5))
    large: list[pickle.PickleBuffer] = []

    def aside(buffer: pickle.PickleBuffer) -> bool:
        """Say whether a buffer stays in the pickle."""
        if keep is None:
            return True
        try:
            small = buffer.raw().nbytes < BUFFER_BYTES
        except BufferError:  # not contiguous: it has no raw bytes
            return True
        if not small:
            large.append(buffer)
        return small

    body = _dumps(value, aside, large)
    raw = [buffer.raw() for buffer in large]
    if keep is None or (not raw and len(body) < BODY_BYTES):
        return Packed(body)
    if len(body) < BODY_BYTES:
        return Packed(body, tuple(keep(raw)))
    return Packed(b"", tuple(keep([memoryview(body), *raw])))


def _dumps(value: Any, aside: Callable[[pickle.PickleBuffer], bool], large: list[pickle.PickleBuffer]) -> bytes:
    """Pickle with the C pickler (2 us), or by value with cloudpickle (30 us) what only the driver's __main__ has."""
    try:
        body = pickle.dumps(value, 5, buffer_callback=aside)
        if b"__main__" not in body:
            return body
    except Exception:  # noqa: BLE001,S110  cloudpickle knows more kinds, and its error is the one to show
        pass
    import cloudpickle

    large.clear()
    return bytes(cloudpickle.dumps(value, 5, buffer_callback=aside))


def unpack(packed: Packed) -> Any:
    """Return the value; its large buffers are private mappings of their files, read as they are touched."""
    body, places = packed
    if not places:
        return pickle.loads(body)
    maps: dict[str, memoryview] = {}
    buffers = [_mapped(place, maps) for place in places]
    if not body:
        return pickle.loads(buffers[0], buffers=buffers[1:])
    return pickle.loads(body, buffers=buffers)


def _mapped(place: Place, maps: dict[str, memoryview]) -> memoryview:
    if place.path not in maps:
        with open(place.path, "rb") as file:
            maps[place.path] = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    return maps[place.path][place.offset : place.offset + place.size]


def write_file(path: str, buffers: list[memoryview]) -> list[Place]:
    """Write buffers to a new file, each aligned; the file has its name only once it is whole.

    Raises:
        OSError: the disk is full; nothing is left behind.
    """
    places: list[Place] = []
    end = 0
    try:
        with open(path + ".part", "wb") as file:
            for buffer in buffers:
                start = -(-end // ALIGNMENT) * ALIGNMENT
                file.seek(start)
                file.write(buffer)
                end = start + buffer.nbytes
                places.append(Place(path, start, buffer.nbytes))
        os.rename(path + ".part", path)
    except OSError:
        if os.path.exists(path + ".part"):
            os.unlink(path + ".part")
        raise
    return places
