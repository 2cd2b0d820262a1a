"""A bucket that travels as a codec encodes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fleet import timeline
from fleet.collective.flat import HostFlat
from fleet.collective.strategies.codec import Codec, Part
from fleet.collective.strategies.hooks import wrong_hook
from fleet.collective.wire import JobWire
from fleet.errors import FleetError
from fleet.group import Group


class CodedFlat(HostFlat):
    """A bucket in the process's own memory: a codec makes the sum out of it, parameter by parameter."""

    def __init__(
        self, starts: Sequence[int], members: Sequence[tuple[str, tuple[int, ...]]], codec: Codec, wire: JobWire
    ) -> None:
        self._array = self._sum = np.zeros(starts[-1], np.float32)
        self._starts, self._members, self._codec, self._wire = starts, members, codec, wire

    def add_up(self, group: Group | None, where: str, present: int) -> None:
        """Let the codec put the sums in place. A parameter without a gradient anywhere keeps its error to itself."""
        self._wire.where = f"{where}, {self._codec.name}"
        parts = [self._part(k) for k in range(len(self._members)) if present >> k & 1]
        try:
            began = timeline.now()
            self._codec.reduce(parts, self._wire)
            timeline.mark("encode", self._codec.name, began)
        except FleetError:
            raise
        except Exception as error:  # whatever a user's codec raises
            fix = "correct the codec, or leave it out of the strategy"
            raise wrong_hook(self._codec, "reduce", f"raised {type(error).__name__}: {error}", fix) from error

    def _part(self, k: int) -> Part:
        name, shape = self._members[k]
        return Part(name, shape, self._array[self._starts[k] : self._starts[k + 1]])
