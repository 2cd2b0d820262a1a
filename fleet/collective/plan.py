"""Which parameter sits where in which bucket: plain arithmetic on sizes, no Paddle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fleet.collective.strategies.buckets import Buckets

FLOAT_BYTES = 4


class Bucket(NamedTuple):
    """Gradients that travel as one message: parameter ``members[i]`` holds floats ``starts[i]`` to ``starts[i + 1]``."""

    members: tuple[int, ...]  # indices of parameters, in the order in which their gradients become ready
    starts: tuple[int, ...]  # one more than members
    waits_for_end: bool  # its members get gradients in several parts, so it is full only when backward ends

    @property
    def num_bytes(self) -> int:
        return self.starts[-1] * FLOAT_BYTES


def make_buckets(
    order: Sequence[int], repeated: Sequence[int], sizes: Sequence[int], settings: Mapping[str, float] | None
) -> list[Bucket]:
    """Cut parameters into buckets in the order in which their gradients become ready.

    Args:
        order: every parameter index once.
        repeated: those whose gradient comes in several parts of one backward; they go last, and wait for its end.
        sizes: floats of each parameter.
        settings: the strategy's ``buckets`` block (``first_mb``, ``mb``), or None for its defaults.
    """
    limits = {f.name: float(f.default) for f in Buckets.fields} | dict(settings or {})
    late = set(repeated)
    made: list[Bucket] = []
    for part, waits in (([i for i in order if i not in late], False), ([i for i in order if i in late], True)):
        members: list[int] = []
        starts = [0]
        for index in part:
            members.append(index)
            starts.append(starts[-1] + sizes[index])
            limit_mb = limits["mb"] if made else limits["first_mb"]
            if starts[-1] * FLOAT_BYTES >= limit_mb * 1e6:
                made.append(Bucket(tuple(members), tuple(starts), waits))
                members, starts = [], [0]
        if members:
            made.append(Bucket(tuple(members), tuple(starts), waits))
    return made
