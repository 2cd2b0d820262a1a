"""Which parameter sits where in which bucket: plain arithmetic on sizes, no Paddle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fleet.collective.strategies.buckets import Buckets

FLOAT_BYTES = {"float32": 4, "float64": 8, "rows": 0}


class Bucket(NamedTuple):
    """Gradients that travel as one message: parameter ``members[i]`` holds floats ``starts[i]`` to ``starts[i + 1]``."""

    members: tuple[int, ...]  # indices of parameters, in the order in which their gradients become ready
    starts: tuple[int, ...]  # one more than members
    waits_for_end: bool  # its members get gradients in several parts, so it is full only when backward ends
    kind: str = "float32"  # of its floats; "rows": one parameter, whose gradient is a list of rows

    @property
    def num_bytes(self) -> int:
        return self.starts[-1] * FLOAT_BYTES[self.kind]


def make_buckets(
    order: Sequence[int],
    repeated: Sequence[int],
    sizes: Sequence[int],
    settings: Mapping[str, float] | None,
    kinds: Mapping[int, str] | None = None,
) -> list[Bucket]:
    """Cut parameters into buckets in the order in which their gradients become ready.

    Args:
        order: every parameter index once.
        repeated: those whose gradient comes in several parts of one backward; they go last, and wait for its end.
        sizes: floats of each parameter.
        kinds: of parameters that are not float32.
        settings: the strategy's ``buckets`` block (``first_mb``, ``mb``), or None for its defaults.
    """
    limits = {f.name: float(f.default) for f in Buckets.fields} | dict(settings or {})
    late, kind_of = set(repeated), dict(kinds or {})
    made: list[Bucket] = []
    parts = [([i for i in order if (i in late) == waits and kind_of.get(i, "float32") == kind], waits, kind)
             for waits in (False, True) for kind in ("float32", "float64")]  # fmt: skip
    for part, waits, kind in parts:
        members: list[int] = []
        starts = [0]
        for index in part:
            members.append(index)
            starts.append(starts[-1] + sizes[index])
            limit_mb = limits["mb"] if made else limits["first_mb"]
            if starts[-1] * FLOAT_BYTES[kind] >= limit_mb * 1e6:
                made.append(Bucket(tuple(members), tuple(starts), waits, kind))
                members, starts = [], [0]
        if members:
            made.append(Bucket(tuple(members), tuple(starts), waits, kind))
    return made + [Bucket((i,), (0, 0), True, "rows") for i in order if kind_of.get(i) == "rows"]
