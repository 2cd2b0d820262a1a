"""The memory of all buckets: shared by one host's trainers, a codec's, or the process's own with a group that adds it up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fleet.collective.coded import CodedFlat
from fleet.collective.flat import DeviceFlat, Flat, HostFlat, SharedFlat, dtype_of
from fleet.collective.plan import Bucket
from fleet.collective.rows import Give, RowsFlat
from fleet.collective.shared import SharedSlots
from fleet.collective.strategies.codec import Codec
from fleet.collective.wire import JobWire
from fleet.errors import ConfigError
from fleet.group import Group
from fleet.runtime import Runtime


class Memory:
    """Buckets' memory, made by all trainers together in the script's thread."""

    def __init__(self, runtime: Runtime, codec: Codec | None, wire: Any) -> None:
        assert isinstance(wire, JobWire)
        self._runtime, self._codec, self._wire = runtime, codec, wire
        self.group: Group | None = None  # opened where memory cannot be shared
        self.way = ""  # how gradients meet, for the banner; known from the first backward on

    def make(self, plan: Sequence[Bucket], named: Sequence[tuple[str, Any]], give: Give) -> list[Flat | RowsFlat]:
        """Return the memory of each bucket. ``give``: what gives a parameter a gradient of rows."""
        dense = iter(self._dense([bucket for bucket in plan if bucket.kind != "rows"], named))
        return [self._rows(named[b.members[0]][1], give) if b.kind == "rows" else next(dense) for b in plan]

    def _dense(self, plan: list[Bucket], named: Sequence[tuple[str, Any]]) -> list[Flat]:
        if not plan:
            return []
        on_cpu = named[0][1].place.is_cpu_place()
        if self._codec is not None:
            if not on_cpu:
                fix = "leave it away: NCCL carries float32"
                raise ConfigError(f"{self._codec.name} encodes on CPUs only", at=f"strategy.{self._codec.name}", fix=fix)
            self._wire.open()
            self.way = f"{self._wire.way}, as {self._codec.name}"
            return [self._coded(bucket, self._codec, named) for bucket in plan]
        if on_cpu:
            shared = SharedSlots.open(self._runtime, [-(-bucket.num_bytes // 4) for bucket in plan])
            if shared is not None:
                self.way = "in shared memory"
                pairs = zip(shared.slots, plan, strict=True)
                return [SharedFlat(slots, self._runtime.role.rank, bucket.kind) for slots, bucket in pairs]
        self.group = self.group or Group.open(self._runtime, "gradients")
        self.way = "over " + self.group.backend
        kind = HostFlat if on_cpu else DeviceFlat
        return [kind(bucket.starts[-1], bucket.kind) for bucket in plan]

    def _coded(self, bucket: Bucket, codec: Codec, named: Sequence[tuple[str, Any]]) -> CodedFlat:
        members = [(named[i][0], tuple(named[i][1].shape)) for i in bucket.members]
        return CodedFlat(bucket.starts, members, codec, self._wire)

    def _rows(self, parameter: Any, give: Give) -> RowsFlat:
        self._wire.open()
        return RowsFlat(int(parameter.shape[1]), dtype_of(parameter), self._wire, give)
