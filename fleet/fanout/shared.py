"""Large arrays in items and closures: written once into shared memory, mapped by every worker that needs them."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

from fleet.fanout.parcel import Place, write_file

IDLE_BYTES = 512 << 20  # of files that no call uses now: an array that every item holds is not copied for each of them
SHARED_MEMORY = "/dev/shm"


class SharedBuffers:
    """Files of buffers, by the identity of their owner. A list's arrays must not change while the list is spread.

    Args:
        name: of the directory in shared memory; it is made when it is needed.
        fallback: where files go if there is no room in shared memory.
        reuse: False for items of a generator, which may fill the same array anew each time.
    """

    def __init__(self, name: str, fallback: str, reuse: bool) -> None:
        self.fallback, self.reuse = fallback, reuse
        self.directory = os.path.join(SHARED_MEMORY if os.path.isdir(SHARED_MEMORY) else fallback, name)
        self._count = 0
        self._places: OrderedDict[tuple[int, int], tuple[Place, Any]] = OrderedDict()  # with the owner, whose id thus stays its own
        self._users: dict[str, int] = {}

    def keep(self, buffers: list[memoryview]) -> list[Place]:
        """Return the places of buffers; each call of it must be answered by `release` of what it returned."""
        return [self._place(buffer) for buffer in buffers]

    def _place(self, buffer: memoryview) -> Place:
        key = self._key(buffer)
        if key not in self._places:
            self._count += 1
            self._places[key] = self._write(buffer), buffer.obj
        place = self._places[key][0]
        self._users[place.path] = self._users.get(place.path, 0) + 1
        self._places.move_to_end(key)
        return place

    def _key(self, buffer: memoryview) -> tuple[int, int]:
        if not self.reuse:
            return self._count, -1
        if buffer.readonly:  # the address cannot be had, and the owner will do
            return id(buffer.obj), buffer.nbytes
        import ctypes

        return ctypes.addressof(ctypes.c_char.from_buffer(buffer)), buffer.nbytes

    def _write(self, buffer: memoryview) -> Place:
        try:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            return write_file(os.path.join(self.directory, str(self._count)), [buffer])[0]
        except OSError:  # shared memory is full: the run directory is slower, and larger
            return write_file(os.path.join(self.fallback, f"shared-{self._count}"), [buffer])[0]

    def release(self, places: tuple[Place, ...]) -> None:
        """Say that a call has ended which used these places; the least recently used idle files go first."""
        for place in places:
            if place.path in self._users:
                self._users[place.path] -= 1
        idle = [(key, place) for key, (place, _) in self._places.items() if not self._users.get(place.path)]
        too_many = sum(place.size for _, place in idle) - (IDLE_BYTES if self.reuse else 0)
        for key, place in idle:
            if too_many <= 0:
                break
            os.unlink(place.path)
            del self._places[key], self._users[place.path]
            too_many -= place.size

    def close(self) -> None:
        """Remove every file; mappings that are in use stay valid."""
        for place, _ in self._places.values():
            if os.path.exists(place.path):
                os.unlink(place.path)
        self._places.clear()
        if self._count and os.path.isdir(self.directory):
            os.rmdir(self.directory)
