"""Memory that the trainers of one host share: each writes its gradients to its own slot, and adds up everybody's.

On one host this takes the place of Gloo: a sum of 1.7 MB takes 0.2 ms and one meeting where Gloo over loopback takes 1.3 ms
and twice the processor time. The sum is made in rank order by every trainer, so all have the same bits.

No trainer overwrites what another still reads. A slot is written before its bucket's meeting and read after it; whoever has
passed the meeting of a backward's last bucket knows that all have read the buckets before. Only the last bucket itself may still
be read, so it has two slots a trainer, used in turn.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
from collections.abc import Sequence

import numpy as np

from fleet import env
from fleet.collective.flat import Array
from fleet.runtime import Runtime

DIRECTORY = "/dev/shm"
PAGE_BYTES = 4096


class SharedSlots:
    """``slots[bucket][turn][rank]``: float32 arrays that all trainers see."""

    def __init__(self, memory: mmap.mmap, sizes: Sequence[int], world_size: int) -> None:
        self._memory = memory
        self.slots: list[list[list[Array]]] = []
        at = 0
        for bucket, size in enumerate(sizes):
            turns: list[list[Array]] = []
            for _ in range(_turns(bucket, len(sizes))):
                ranks: list[Array] = []
                for _ in range(world_size):
                    ranks.append(np.frombuffer(memory, np.float32, size, at))
                    at += _slot_bytes(size)
                turns.append(ranks)
            self.slots.append(turns)

    @classmethod
    def open(cls, runtime: Runtime, sizes: Sequence[int]) -> SharedSlots | None:
        """Map memory for buckets of these sizes (floats), together with all trainers; None if it cannot be had.

        Then nobody has it, and gradients go through Gloo. The file has no name any more when this returns: it goes with the
        last process that maps it, however that ends.

        Cost: two meetings; (trainers x floats x 4) bytes of shared memory.
        """
        world_size, rank = runtime.role.world_size, runtime.role.rank
        total = sum(_turns(b, len(sizes)) * world_size * _slot_bytes(s) for b, s in enumerate(sizes))
        path, handle = "", -1
        if rank == 0 and env.get("FLEET_SHARED_MEMORY", "on") != "off":
            with contextlib.suppress(OSError):
                path, handle = _create(total)
        name = runtime.meet("shared memory for gradients", path.encode())[0].decode()
        if not name:
            return None
        memory = None
        with contextlib.suppress(OSError):
            handle = os.open(name, os.O_RDWR) if rank != 0 else handle
            memory = mmap.mmap(handle, total)
        if handle >= 0:
            os.close(handle)
        have = runtime.meet("mapping of shared memory", b"yes" if memory is not None else b"")
        if rank == 0:
            os.unlink(name)
        return cls(memory, sizes, world_size) if memory is not None and all(have) else None


def _create(total: int) -> tuple[str, int]:
    """Make a file of ``total`` bytes that the system really has room for; return its path and handle."""
    path = f"{DIRECTORY}/fleet-{secrets.token_hex(8)}"
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        os.posix_fallocate(handle, 0, total)
    except OSError:
        os.close(handle)
        os.unlink(path)
        raise
    return path, handle


def _turns(bucket: int, num_buckets: int) -> int:
    return 2 if bucket == num_buckets - 1 else 1


def _slot_bytes(size: int) -> int:
    """Whole pages, at least one: two trainers never write to one cache line."""
    return max(1, -(-4 * size // PAGE_BYTES)) * PAGE_BYTES
