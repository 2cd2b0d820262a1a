"""PaddleRec's text: ``slot:value`` between spaces, in any order, a slot once for each of its values.

    click:0 dense:0.5 dense:1.25 1:737395 2:8 2:15 26:537425
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from fleet.data.block import I64, Block, Column
from fleet.data.digits import U64, Text, first_characters, last_characters, padded
from fleet.data.format import TextFormat, finish
from fleet.data.slots import Group, Slot, column, groups, listed, made, tokens
from fleet.errors import ConfigError

_REASONS = (
    "the line is empty, or a word of it is not slot:value",
    "a slot has another number of values than its width",
    "a value is not a number of its slot's kind",
)
_COLON = 58


@dataclass(frozen=True)
class SlotValue(TextFormat):
    """Read slot:value text.

    Args:
        slots: those to be read, by their names in the text; a line's other slots are passed over. A ragged slot that a line
            leaves out has no values there; one with a width reads as zeros.

    Raises:
        ConfigError: slots that contradict each other.

    Example:
        >>> lines = SlotValue([Slot("click", "int", 1), Slot("2"), Slot("dense", "float", 2)])
        >>> block = lines.parse(b"click:1 dense:0.5 dense:1.25 1:4 2:8 2:15\\n")
        >>> block.columns["2"].values.tolist(), block.columns["dense"].tolist()
        ([8, 15], [[0.5, 1.25]])
    """

    slots: Sequence[Slot | Sequence[Any]]
    form: ClassVar[str] = "slot:value text, the pairs between spaces"
    _groups: list[Group] = field(init=False, repr=False, compare=False)
    _widths: list[int | None] = field(init=False, repr=False, compare=False)
    _keys: U64 = field(init=False, repr=False, compare=False)  # of the names, ascending
    _names: list[Any] = field(init=False, repr=False, compare=False)  # first and last characters, length, slot; by key

    def __post_init__(self) -> None:
        slots = made(self.slots, "SlotValue(slots=)")
        names = [slot.name for slot in slots]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            fix = "declare it once, with the width or the raggedness of all its values"
            raise ConfigError(f"slot {twice!r} is declared twice", at="SlotValue(slots=)", fix=fix)
        object.__setattr__(self, "slots", listed(slots))
        object.__setattr__(self, "_groups", groups(slots, "SlotValue(slots=)"))
        object.__setattr__(self, "_widths", [slot.width for slot in slots])
        text = padded(b"\n".join(name.encode() for name in names) + b"\n")
        found = tokens(text)
        parts = _name_parts(text, found.starts, found.ends)
        order = np.argsort(_key(*parts))
        object.__setattr__(self, "_keys", _key(*parts)[order])
        object.__setattr__(self, "_names", [*(part[order] for part in parts), order])

    def parse_piece(self, text: bytes) -> Block:
        """Parse a few thousand whole lines."""
        found = padded(text)
        starts, ends, first, last, line_ends = tokens(found)
        num_lines, num_slots = len(first), len(self._widths)
        colons, pairs_ok = _colons(found, starts, ends)
        line = np.repeat(np.arange(num_lines), last - first)
        why = np.where(last > first, 0, 1).astype(np.int8)
        why[line[~pairs_ok]] = 1
        slot = self._slots_of(found, starts, colons, num_lines)
        # Tokens by line and slot; most texts have every line in the declared order already.
        wanted = (slot >= 0) & (why[line] == 0)
        place = line * num_slots + slot
        chosen = np.flatnonzero(wanted)
        place = place[chosen]
        if (np.diff(place) < 0).any():
            order = np.argsort(place, kind="stable")
            chosen, place = chosen[order], place[order]
        counts = np.bincount(place, minlength=num_lines * num_slots).reshape(num_lines, num_slots)
        at = (np.cumsum(counts) - counts.reshape(-1)).reshape(num_lines, num_slots)
        for i, width in enumerate(self._widths):
            if width is not None:
                why[(counts[:, i] != width) & (counts[:, i] != 0) & (why == 0)] = 2
        if why.any():
            at, counts = at[why == 0], counts[why == 0]
        return self._block(found, colons[chosen] + 1, ends[chosen], at, counts, why, text, line_ends)

    def _block(
        self, found: Text, starts: I64, ends: I64, at: I64, counts: I64, why: Any, text: bytes, line_ends: I64
    ) -> Block:
        columns: dict[str, Column] = {}
        rows_ok = np.ones(len(at), np.bool_)
        for group in self._groups:
            of_group = slice(group.first, group.end)
            made_column, good = column(found, group, starts, ends, at[:, of_group], counts[:, of_group])
            columns[group.name] = made_column
            rows_ok &= good
        why[why == 0] = np.where(rows_ok, 0, -3)
        return finish(columns, why, _REASONS, text, line_ends)

    def _slots_of(self, text: Text, starts: I64, colons: I64, num_lines: int) -> I64:
        """Return the declared slot of each token, -1 for others."""
        first, last, lengths = parts = _name_parts(text, starts, colons)
        # Most texts have the same slots in the same order in each line: then the first line says all.
        width = len(starts) // num_lines if num_lines else 0
        if width and width * num_lines == len(starts) and all((p.reshape(-1, width) == p[:width]).all() for p in parts):
            return np.tile(self._declared(first[:width], last[:width], lengths[:width]), num_lines)
        return self._declared(first, last, lengths)

    def _declared(self, first: U64, last: U64, lengths: I64) -> I64:
        near = np.minimum(np.searchsorted(self._keys, _key(first, last, lengths)), len(self._keys) - 1)
        names_first, names_last, names_lengths, slots = self._names
        same = (names_first[near] == first) & (names_last[near] == last) & (names_lengths[near] == lengths)
        return np.where(same, slots[near], -1)


def _name_parts(text: Text, starts: I64, ends: I64) -> tuple[U64, U64, I64]:
    """Return the first 8 characters of names, the last 8, and the lengths: up to 16 characters they are the name."""
    lengths = ends - starts
    return first_characters(text, starts, np.clip(lengths, 0, 8)), last_characters(text, ends, np.clip(lengths, 0, 8)), lengths


def _key(first: U64, last: U64, lengths: I64) -> U64:
    key: U64 = first * np.uint64(0x9E3779B97F4A7C15)
    key += last * np.uint64(0xBF58476D1CE4E5B9)
    key += lengths.astype(np.uint64)
    return key


def _colons(text: Text, starts: I64, ends: I64) -> tuple[I64, Any]:
    """Return where each token's first colon stands (its end where there is none), and which tokens are name:value."""
    colons = np.flatnonzero(text.chars == _COLON)
    if len(colons) == len(starts) and (colons > starts).all() and (colons < ends - 1).all():
        return colons, np.ones(len(starts), np.bool_)
    found = np.append(colons, len(text.chars))[np.searchsorted(colons, starts)]
    ok = (found > starts) & (found < ends - 1)
    return np.minimum(found, ends), ok
