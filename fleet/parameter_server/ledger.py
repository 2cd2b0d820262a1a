"""What a server took since its last snapshot, in a file that outlives it: so its next life can say what was lost.

A ring of the last pushes, mapped into memory: a kill loses nothing of it, for the pages belong to the kernel.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Mapping

_COUNT = struct.Struct("<Q")  # entries ever written
_ENTRY = struct.Struct("<IIQQ")  # trainer, rows, incarnation, sequence
_AT = 64
MAX_ENTRIES = 1 << 16  # 1.5 MB


class Ledger:
    """The pushes that one server has counted.

    Args:
        path: of the file; of an earlier life if it is there.
    """

    def __init__(self, path: str) -> None:
        size = _AT + MAX_ENTRIES * _ENTRY.size
        fresh = not os.path.exists(path)
        with open(path, "a+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        if fresh:
            _COUNT.pack_into(self._map, 0, 0)
        self._num = int(_COUNT.unpack_from(self._map)[0])
        self._guard = threading.Lock()  # guards the map and _num: trainers push at once

    def note(self, trainer: int, incarnation: int, sequence: int, num_rows: int) -> None:
        """Add a push that counted."""
        with self._guard:
            _ENTRY.pack_into(self._map, _AT + self._num % MAX_ENTRIES * _ENTRY.size, trainer, num_rows, incarnation, sequence)
            self._num += 1
            _COUNT.pack_into(self._map, 0, self._num)

    def clear(self) -> None:
        """Forget all: what was lost has been said."""
        with self._guard:
            self._num = 0
            _COUNT.pack_into(self._map, 0, 0)

    def lost(self, applied: Mapping[int, tuple[int, int]]) -> str:
        """Say in steps and rows what was taken after a snapshot; "" if nothing was.

        Args:
            applied: trainer -> (incarnation, sequence) of the snapshot.
        """
        steps: dict[int, int] = {}
        rows, oldest = 0, -1
        first = max(0, self._num - MAX_ENTRIES)
        for number in range(first, self._num):
            trainer, num_rows, incarnation, sequence = _ENTRY.unpack_from(self._map, _AT + number % MAX_ENTRIES * _ENTRY.size)
            if (incarnation, sequence) > applied.get(trainer, (0, 0)):
                steps[trainer] = steps.get(trainer, 0) + 1
                rows += num_rows
                oldest = number if oldest < 0 else oldest
        if not steps:
            return ""
        who = ", ".join(f"{count} of trainer {trainer}" for trainer, count in sorted(steps.items()))
        least = "at least " if oldest == first > 0 else ""  # older ones were overwritten
        return f"{least}{sum(steps.values())} steps ({who}) with {rows:,} updates of rows"
