"""A batch whose ids are known before it is computed, and the gradient of what its fields read.

Fields that read the same table share one list of unique keys: one call of the core, one pull, and one sum of gradients, to
which each field adds its own. A key is pushed only if a field that reads it had a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet.parameter_server import sightings
from fleet.parameter_server.answer import Answer
from fleet.parameter_server.client import Pulled, RowGradient
from fleet.parameter_server.tables import Values

Ids = NDArray[np.uint64]


class Announced:
    """The ids of one coming batch.

    Args:
        ids: table name -> ``uint64[n]`` with repeats, or a list of them if several fields read the table.
        create: make missing rows.
    """

    def __init__(self, ids: Mapping[str, Ids | list[Ids]], create: bool) -> None:
        self.create = create
        self._fields = {table: given if isinstance(given, list) else [given] for table, given in ids.items()}
        self.ids = {table: parts[0] if len(parts) == 1 else np.concatenate(parts) for table, parts in self._fields.items()}
        self._turn: dict[str, int] = {}  # table -> the field that is read next if they come in order
        self.answer: Answer[list[Pulled]] | None = None
        self.used = False  # it was looked up: at the next push it is over

    def holds(self, table: str, ids: Ids) -> slice | None:
        """Return where the ids of a look-up are among the table's; None if no field has them."""
        parts = self._fields.get(table, [])
        turn = self._turn.get(table, 0)
        for at in (*range(turn, len(parts)), *range(turn)):
            if _same(parts[at], ids):
                self._turn[table] = at + 1
                start = sum(len(part) for part in parts[:at])
                return slice(start, start + len(ids))
        return None

    def rows(self, table: str, place: slice) -> Pulled:
        """Wait for the rows; return those of one field."""
        assert self.answer is not None
        pulled = self.answer.result()[list(self.ids).index(table)]
        if len(self._fields[table]) == 1:
            return pulled
        return pulled._replace(inverse=pulled.inverse[place], is_part=True)


class Gathered:
    """The gradient of a table's pulled rows: of one look-up, or of all fields of a batch that share the rows.

    Args:
        scale: the trainer's share of the global batch.
        num_sightings: what the table's life counts: nothing, shows, or shows and clicks.
    """

    def __init__(self, core: Any, pulled: Pulled, scale: float, num_sightings: int = 0) -> None:
        self._core, self._pulled, self._scale = core, pulled, scale
        self._values: Values = (np.zeros if pulled.is_part else np.empty)(pulled.rows.shape, dtype=np.float32)
        self._touched = np.zeros(len(pulled.keys), dtype=bool) if pulled.is_part else None
        self._seen = np.zeros((num_sightings, len(pulled.keys)), dtype=np.uint32) if num_sightings else None
        self._closed: RowGradient | None = None

    def takes(self, pulled: Pulled, scale: float) -> bool:
        """Return whether the gradient of this look-up can be added: a field of the same batch, and nothing was sent yet."""
        return pulled.is_part and pulled.keys is self._pulled.keys and scale == self._scale and self._closed is None

    def add(self, pulled: Pulled, gradient: Values, bags: Any, clicks: NDArray[np.bool_] | None = None) -> None:
        """Add the gradient ``float32[n, dim]`` of a look-up, ``[num_bags, dim]`` with bags."""
        if self._seen is not None:
            self._seen += sightings.count(pulled.inverse, len(pulled.keys), clicks)
        if self._touched is None and bags is None:
            self._core.merge(gradient, pulled.inverse, self._scale, self._values)
            return
        if self._touched is None:
            self._values.fill(0)
        else:
            self._touched[pulled.inverse] = True
        self._core.unpool(gradient, pulled.inverse, *(bags or (None, None, "sum")), self._values)
        if self._touched is None:
            self._values *= np.float32(self._scale)

    def close(self) -> RowGradient:
        """Return the sum, weighted; what comes later is another's."""
        if self._closed is None:
            keys, counts, values, seen = self._pulled.keys, self._pulled.counts, self._values, self._seen
            if self._touched is not None:
                values *= np.float32(self._scale)
                if not self._touched.all():  # a field was announced and not used: its keys did not take part in this step
                    before, ends = np.concatenate(([0], np.cumsum(self._touched))), np.cumsum(counts)
                    counts = before[ends] - before[ends - counts]
                    keys, values = keys[self._touched], values[self._touched]
                    seen = None if seen is None else seen[:, self._touched]
            self._closed = RowGradient(keys, counts, values, seen)
        return self._closed


def _same(some: Ids, others: Ids) -> bool:
    if some is others:
        return True
    if some.size != others.size or (some.size and some[0] != others[0]):
        return False
    return bool(np.array_equal(some, others))
