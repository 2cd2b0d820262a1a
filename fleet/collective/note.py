"""What a trainer says about its bucket at the bucket's meeting: its part of the batch, and which gradients it has."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from fleet.errors import ConfigError
from fleet.runtime import Share

_HEAD = struct.Struct("<qq")
_NO_BATCH = -1  # nobody said how the data are shared


class Note(NamedTuple):
    """``present`` has bit k set if this trainer adds something to the bucket's k-th gradient."""

    num_samples: int
    num_global: int
    present: int

    def pack(self, num_members: int) -> bytes:
        """Return 16 bytes and a bit per gradient."""
        return _HEAD.pack(self.num_samples, self.num_global) + self.present.to_bytes((num_members + 7) // 8, "little")


def note_of(share: Share | None, present: int) -> Note:
    """Return this trainer's note."""
    return Note(_NO_BATCH, _NO_BATCH, present) if share is None else Note(share.num_samples, share.num_global, present)


def read_presence(notes: Sequence[bytes], where: str) -> int:
    """Return the bits of gradients that anybody has, from all trainers' packed notes in rank order.

    Raises:
        ConfigError: on every trainer: the parts do not make up one global batch, so the gradients' weights would be wrong.
    """
    shares, present = [], 0
    for note in notes:
        shares.append(_HEAD.unpack_from(note))
        present |= int.from_bytes(note[_HEAD.size :], "little")
    wholes = {num_global for _, num_global in shares}
    if wholes == {_NO_BATCH}:
        return present
    if len(wholes) > 1 or sum(num_samples for num_samples, _ in shares) not in wholes:
        words = [f"trainer {r} has " + ("no batch" if g == _NO_BATCH else f"{n} of {g}") for r, (n, g) in enumerate(shares)]
        raise ConfigError(
            f"the trainers' parts do not make one global batch: {', '.join(words)} samples",
            at=where,
            fix="draw every batch from fleet.distributed_loader on all trainers, in the same order",
        )
    return present
