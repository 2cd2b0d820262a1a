"""The line on which codecs and strategies exchange bytes: memory that one host's trainers share, else Gloo.

Nobody overwrites what another still reads: a trainer's slot has two turns. What is written for round i is read after the
meeting of round i, and overwritten before that of round i + 2: whoever is there knows that all have read round i.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from fleet import timeline
from fleet.collective.flat import Array
from fleet.collective.shared import SharedSlots
from fleet.errors import PeerLost
from fleet.group import Group
from fleet.runtime import Runtime

# A slot of this size stays in a core's cache while it is copied: 8 trainers take 64 MB of shared memory.
SLOT_BYTES = 4 << 20
_LENGTHS = struct.Struct("<qq")  # bytes of this round, bytes left for later ones


class JobWire:
    """``hooks.Wire`` of a job. Used by one thread at a time: the sender's under backward, the script's in step()."""

    def __init__(self, runtime: Runtime) -> None:
        self.rank, self.world_size = runtime.role.rank, runtime.role.world_size
        self.where = ""  # what the next calls are for: the trainers meet under this name
        self.bytes_sent = 0  # by this trainer, so far
        self._runtime = runtime
        self._slots: list[list[Array]] = []  # [turn][rank], in shared memory
        self._turn = 0
        self._group: Group | None = None

    def open(self) -> None:
        """Share memory with the others, or open a process group; by all trainers, in the script's thread. Once is enough.

        Cost: two meetings, and 8 MB of shared memory a trainer.
        """
        if self.world_size == 1 or self._slots or self._group is not None:
            return
        shared = SharedSlots.open(self._runtime, [SLOT_BYTES // 4])
        if shared is not None:
            self._slots = shared.slots[0]
        else:
            self._group = Group.open(self._runtime, "strategies")

    @property
    def way(self) -> str:
        """How bytes travel, for the banner; known once the wire is open."""
        return "in shared memory" if self._slots else f"over {self._group.backend}" if self._group is not None else "nowhere"

    def gather(self, payload: bytes) -> list[bytes]:
        """Return what every trainer gave, in rank order. Lengths may differ. Cost: a meeting per 4 MB."""
        began = timeline.now()
        got = self._gathered(payload)
        timeline.mark("send", self.where, began)
        return got

    def _gathered(self, payload: bytes) -> list[bytes]:
        self.bytes_sent += len(payload)
        if self.world_size == 1:
            return [payload]
        self.open()
        if self._group is not None:
            return self._gather_by_group(payload)
        got: list[list[bytes]] = [[] for _ in range(self.world_size)]
        start = 0
        while True:
            slots = [slot.view(np.uint8) for slot in self._slots[self._turn]]
            stop = min(start + SLOT_BYTES, len(payload))
            slots[self.rank][: stop - start] = np.frombuffer(payload, np.uint8, stop - start, start)
            lengths = [_LENGTHS.unpack(n) for n in self._meet(_LENGTHS.pack(stop - start, len(payload) - stop))]
            for r, (now, _) in enumerate(lengths):
                got[r].append(slots[r][:now].tobytes())
            self._turn, start = 1 - self._turn, stop
            if not any(left for _, left in lengths):
                return [b"".join(pieces) for pieces in got]

    def sum(self, values: Any) -> Any:
        """Return the sum of all trainers' float32[n], the same bits on each. Cost: a meeting per 4 MB; 4 bytes a float."""
        began = timeline.now()
        total = self._summed(values)
        timeline.mark("send", self.where, began)
        return total

    def _summed(self, values: Any) -> Any:
        flat: Array = np.ascontiguousarray(values, np.float32).reshape(-1)
        self.bytes_sent += flat.nbytes
        if self.world_size == 1:
            return flat.copy()
        self.open()
        if self._group is not None:
            return self._sum_by_group(flat)
        total = np.empty_like(flat)
        for start in range(0, max(flat.size, 1), SLOT_BYTES // 4):
            part: Array = flat[start : start + SLOT_BYTES // 4]
            slots = [slot[: part.size] for slot in self._slots[self._turn]]
            np.copyto(slots[self.rank], part)
            self._meet(b"")
            into = total[start : start + part.size]
            np.add(slots[0], slots[1], out=into)
            for other in slots[2:]:
                np.add(into, other, out=into)
            self._turn = 1 - self._turn
        return total

    def _gather_by_group(self, payload: bytes) -> list[bytes]:
        """Gloo carries tensors of one size: 32-bit words, as many as the longest needs."""
        import paddle

        assert self._group is not None
        lengths = [_LENGTHS.unpack(n)[0] for n in self._meet(_LENGTHS.pack(len(payload), 0))]
        words = -(-max(lengths) // 4)
        if words == 0:
            return [b""] * self.world_size
        padded = np.frombuffer(payload.ljust(4 * words, b"\0"), np.int32)
        parts = self._group.gather_words(paddle.to_tensor(padded), self.where)
        return [part.numpy().tobytes()[:length] for part, length in zip(parts, lengths, strict=True)]

    def _sum_by_group(self, flat: Array) -> Array:
        import paddle

        assert self._group is not None
        self._meet(b"")
        if flat.size == 0:
            return np.zeros(0, np.float32)
        tensor = paddle.to_tensor(flat)
        self._group.all_reduce_sum_(tensor, self.where)
        found: Array = np.asarray(tensor.numpy(), np.float32)
        return found

    def _meet(self, payload: bytes) -> list[bytes]:
        channel = self._runtime.channel
        if channel is None:
            raise PeerLost("the control channel is closed", at=self.where, fix="train between fleet.init() and shutdown()")
        began = timeline.now()
        met = channel.meet(self.where, payload, self._runtime.timeout_s)
        timeline.mark("meet", self.where, began)
        return met
