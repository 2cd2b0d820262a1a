"""MultiSlot text, the wire format of Paddle's data sets: for each slot its number of values, then the values.

    1 0 1 737395 2 8 15 1 0.693147        label 0, C1 737395, C2 8 and 15, dense 0.693147

Numbers stand between single spaces or tabs, in the order in which the slots are declared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from fleet.data.block import I64, Block, Column
from fleet.data.digits import Text, padded, unsigned
from fleet.data.format import TextFormat, finish
from fleet.data.slots import Group, Slot, column, groups, listed, made, ragged_columns, tokens

_REASONS = (
    "its slots do not add up to the line: a count is missing, wrong, or not that of a slot with a width",
    "a value is not a number of its slot's kind",
)


@dataclass(frozen=True)
class MultiSlot(TextFormat):
    """Read MultiSlot text.

    Args:
        slots: those of a line, in order.

    Raises:
        ConfigError: slots that contradict each other.

    Cost: one label, 26 ids and 13 numbers a line: see benchmarks/readers.py.

    Example:
        >>> lines = MultiSlot([Slot("label", "int", 1), Slot("words"), Slot("dense", "float", 2)])
        >>> block = lines.parse(b"1 1 2 7 9 2 0.5 -1.5\\n")
        >>> block.columns["words"].values.tolist(), block.columns["dense"].tolist()
        ([7, 9], [[0.5, -1.5]])
    """

    slots: Sequence[Slot | Sequence[Any]]
    form: ClassVar[str] = "MultiSlot text of the declared slots: of each slot its number of values, then the values, between spaces"
    _groups: list[Group] = field(init=False, repr=False, compare=False)
    _widths: list[int | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        slots = made(self.slots, "MultiSlot(slots=)")
        object.__setattr__(self, "slots", listed(slots))
        object.__setattr__(self, "_groups", groups(slots, "MultiSlot(slots=)"))
        object.__setattr__(self, "_widths", [s.width for s in slots])

    def parse_piece(self, text: bytes) -> Block:
        """Parse a few thousand whole lines."""
        found = padded(text)
        starts, ends, first, last, line_ends = tokens(found)
        at, counts, ok = self._walk(found, starts, ends, first, last)
        why = np.where(ok, 0, 1).astype(np.int8)
        if not ok.all():
            at, counts = at[ok], counts[ok]
        ragged = [group for group in self._groups if group.slot.width is None]
        bags, rows_ok = ragged_columns(found, ragged, starts, ends, at, counts)
        columns: dict[str, Column] = {}
        for group in self._groups:
            if group.slot.width is None:
                columns[group.name] = bags.pop(0)
                continue
            of_group = slice(group.first, group.end)
            columns[group.name], good = column(found, group, starts, ends, at[:, of_group], counts[:, of_group])
            rows_ok &= good
        why[ok] = np.where(rows_ok, 0, -2)
        return finish(columns, why, _REASONS, text, line_ends)

    def _alike(self, text: Text, starts: I64, ends: I64, first: I64, last: I64) -> tuple[I64, I64, Any] | None:
        """Return what ``_walk`` does if every line has the counts of the first one, where all are below 10; else None."""
        num_lines, num_slots = len(first), len(self._widths)
        if not num_lines or ((last - first) != last[0]).any():
            return None
        places, counts, here = [], [], 0
        for width in self._widths:
            count = int(text.chars[starts[here]]) - 48 if here < last[0] and ends[here] - starts[here] == 1 else -1
            if width is not None and here < last[0] and width > 9:
                found, ok = unsigned(text, starts[here : here + 1], ends[here : here + 1])
                count = int(found[0]) if ok[0] else -1
            if not 0 <= count <= last[0] or (width is not None and count != width):
                return None
            places.append(here)
            counts.append(count)
            here += 1 + count
        if here != last[0]:
            return None
        tokens = first[:, None] + np.array(places)
        begin, lengths = starts[tokens], ends[tokens] - starts[tokens]
        if (lengths != lengths[0]).any() or (lengths[0] > 2).any() or (text.chars[begin] != text.chars[begin[0]]).any():
            return None
        if (text.chars[begin + lengths - 1] != text.chars[begin[0] + lengths[0] - 1]).any():
            return None
        same = np.broadcast_to(np.array(counts), (num_lines, num_slots))
        return tokens + 1, same, np.ones(num_lines, np.bool_)

    def _walk(self, text: Text, starts: I64, ends: I64, first: I64, last: I64) -> tuple[I64, I64, Any]:
        """Go through the slots of all lines at once, from count to count.

        Returns:
            The first token of each slot's values and their number, ``int64[lines, slots]``, and which lines add up.
        """
        num_lines = len(first)
        alike = self._alike(text, starts, ends, first, last)
        if alike is not None:
            return alike
        at = np.zeros((num_lines, len(self._widths)), np.int64)
        counts = np.zeros_like(at)
        ok = np.ones(num_lines, np.bool_)
        here = first.copy()
        most = max(len(starts) - 1, 0)
        lengths = ends - starts
        for slot, width in enumerate(self._widths):
            ok &= here < last
            token = np.minimum(here, most)
            if not num_lines or not len(starts):
                ok[:] = False
                break
            where = starts[token]
            count = text.chars[where].astype(np.int64) - 48
            digit = (count >= 0) & (count <= 9) & (lengths[token] == 1)
            if not digit.all():
                value, is_number = unsigned(text, where, ends[token])
                count = np.minimum(value, np.uint64(1 << 40)).astype(np.int64)
                ok &= is_number
            if width is not None:
                ok &= count == width
            here += 1
            at[:, slot], counts[:, slot] = here, count
            here += count
            np.minimum(here, last, out=here, where=here > last + 1)  # no overflow where a count is absurd
            ok &= here <= last
        return at, counts, ok & (here == last)
