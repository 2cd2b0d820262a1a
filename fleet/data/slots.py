"""Slots: which fields a line of slot text has, and what they become."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fleet.data.block import I64, Column, Ragged, ranges
from fleet.data.digits import PADDING, Bool, Text, floats, signed, unsigned
from fleet.errors import ConfigError

MAX_NAME = 16  # bytes of a slot's name: two words

MAX_NAME = 16  # bytes of a slot's name: two words

_DTYPES: dict[str, Any] = {"int": np.int64, "uint64": np.uint64, "float": np.float32}


@dataclass(frozen=True)
class Slot:
    """One slot of a line.

    Args:
        name: in slot:value text as it stands there, at most 16 bytes; in MultiSlot text, which has no names, as you like.
        kind: ``"int"`` (int64), ``"uint64"`` (ids of 2**63 and more, too; such a column stays a NumPy array, as Paddle has no
            such tensors) or ``"float"`` (float32).
        width: values of each sample; the column is ``[n]`` for one value, else ``[n, values]``. None: any number of values;
            the column is ragged: ``(values, lengths)``.
        column: its name in a batch; the slot's own if left out. Slots of one column, declared one after the other, are joined
            along the second axis: 26 slots of width 1 give ``[n, 26]``; ragged ones give lengths ``[n, 26]``.

    Raises:
        ConfigError: unknown kind, a width below 1, or a name that no text can hold.
    """

    name: str
    kind: str = "int"
    width: int | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 1 <= len(self.name.encode()) <= MAX_NAME or set(self.name) & set(" \t\n\r:"):
            what = f"a slot's name must be a word of 1 to {MAX_NAME} bytes without colons, got {self.name!r}"
            raise ConfigError(what, at="Slot", fix="name it so")
        if self.kind not in _DTYPES:
            what = f'kind must be "int", "uint64" or "float", got {self.kind!r}'
            raise ConfigError(what, at=f"slot {self.name}", fix="use one of the three")
        if self.width is not None and (type(self.width) is not int or self.width < 1):
            what = f"width must be an int >= 1 or None, got {self.width!r}"
            raise ConfigError(what, at=f"slot {self.name}", fix="leave it out where samples have any number of values")


class Tokens(NamedTuple):
    """The words of a text: where each starts and ends; of each line, the first, the first no more, and where it ends."""

    starts: I64
    ends: I64
    first: I64
    last: I64
    line_ends: I64


class Group(NamedTuple):
    """Slots that become one column: those from ``first`` to before ``end``. ``slot`` is the first of them."""

    name: str
    slot: Slot
    first: int
    end: int


def made(slots: Iterable[Any], at: str) -> list[Slot]:
    """Return slots that were given as Slot or, by JSON, as (name, kind, width, column).

    Raises:
        ConfigError: none, or one that is no slot.
    """
    found = []
    for one in slots:
        if isinstance(one, Slot):
            found.append(one)
        elif isinstance(one, (list, tuple)) and 1 <= len(one) <= 4:
            found.append(Slot(*one))
        else:
            raise ConfigError(f"not a slot: {one!r}", at=at, fix='write Slot("name", "int", 1)')
    if not found:
        raise ConfigError("no slots were given", at=at, fix="name the slots of a line, in their order")
    return found


def listed(slots: Iterable[Slot]) -> list[tuple[str, str, int | None, str | None]]:
    """Return slots in a form that JSON can hold."""
    return [(slot.name, slot.kind, slot.width, slot.column) for slot in slots]


def groups(slots: list[Slot], at: str) -> list[Group]:
    """Return which slots become one column.

    Raises:
        ConfigError: slots of one column differ, or are not declared one after the other.
    """
    found: list[Group] = []
    for i, slot in enumerate(slots):
        name = slot.column or slot.name
        last = found[-1] if found else None
        if last is not None and last.name == name:
            if (last.slot.kind, last.slot.width) != (slot.kind, slot.width):
                fix = "let them have one kind and one width, or other columns"
                raise ConfigError(f"slots of the column {name!r} differ: {last.slot} and {slot}", at=at, fix=fix)
            found[-1] = last._replace(end=i + 1)
        elif any(group.name == name for group in found):
            what = f"slots of the column {name!r} are not declared one after the other"
            raise ConfigError(what, at=at, fix="declare them so, or give them different columns")
        else:
            found.append(Group(name, slot, i, i + 1))
    return found


def tokens(text: Text) -> Tokens:
    """Find the tokens of whole lines; bytes up to 32 are blanks, of which several count as one."""
    chars = text.chars
    ends = np.flatnonzero(chars[PADDING:-PADDING] <= 32)
    ends += PADDING
    is_line_end = chars[ends] == 10
    starts = np.empty_like(ends)
    starts[1:] = ends[:-1] + 1
    starts[:1] = PADDING
    line_ends = ends[is_line_end]
    empty = starts == ends  # two separators in a row: a space at a line's end, for one
    if empty.any():
        starts, ends = starts[~empty], ends[~empty]
        last = np.searchsorted(starts, line_ends)
    else:
        last = np.flatnonzero(is_line_end) + 1
    first = np.concatenate(([0], last[:-1]))[: len(last)]
    return Tokens(starts, ends, first, last, line_ends)


def numbers(text: Text, kind: str, starts: I64, ends: I64) -> tuple[Any, Bool]:
    """Return numbers of a kind of slot, and which of them are numbers."""
    if kind == "float":
        return floats(text, starts, ends)
    return signed(text, starts, ends) if kind == "int" else unsigned(text, starts, ends)


def column(text: Text, group: Group, starts: I64, ends: I64, at: I64, counts: I64) -> tuple[Column, Bool]:
    """Decode the column of a group.

    Args:
        starts, ends: of every token of the text.
        at, counts: ``int64[n, slots]``: the first token of each slot's values, and how many there are.

    Returns:
        The column, and which rows are all numbers.
    """
    num_rows, num_slots = at.shape
    width = group.slot.width
    if width is None:
        flat = counts.reshape(-1)
        tokens = at.reshape(-1) if len(flat) and (flat == 1).all() else ranges(at.reshape(-1), flat)
        values, ok = numbers(text, group.slot.kind, starts[tokens], ends[tokens])
        lengths = counts[:, 0] if num_slots == 1 else counts
        return Ragged(values, np.ascontiguousarray(lengths)), _rows_ok(ok, counts.sum(axis=1))
    absent = counts == 0
    tokens = (at[:, :, None] + np.arange(width)).reshape(num_rows, num_slots * width)
    if absent.any():  # slots that a line leaves out read as zeros
        np.minimum(tokens, max(len(starts) - 1, 0), out=tokens)
    if len(starts):
        values, ok = numbers(text, group.slot.kind, starts[tokens].reshape(-1), ends[tokens].reshape(-1))
    else:
        values, ok = np.zeros(tokens.size, _DTYPES[group.slot.kind]), np.zeros(tokens.size, np.bool_)
    if absent.any():
        values.reshape(num_rows, num_slots, width)[absent] = 0
        ok.reshape(num_rows, num_slots, width)[absent] = True
    shape = (num_rows,) if tokens.shape[1] == 1 else tokens.shape
    return values.reshape(shape), np.logical_and.reduce(ok.reshape(tokens.shape), axis=1)


def ragged_columns(text: Text, ragged: list[Group], starts: I64, ends: I64, at: I64, counts: I64) -> tuple[list[Column], Bool]:
    """Decode the columns of several groups with any number of values, those of a kind together.

    One call for each costs more than its numbers where a line has many slots. Measured, CPU-seconds of both in turn: 1.5 times as
    fast with 26 slots of 1 to 5 ids, 1.8 with 100 of 1 or 2, the same with 10 or fewer.

    Args:
        starts, ends, at, counts: as for :func:`column`, of all slots of a line.

    Returns:
        The columns in the order of the groups, and which rows are all numbers.
    """
    found: dict[str, Column] = {}
    rows_ok = np.ones(len(at), np.bool_)
    for kind in dict.fromkeys(group.slot.kind for group in ragged):
        alike = [group for group in ragged if group.slot.kind == kind]
        lengths = [counts[:, group.first : group.end] for group in alike]
        flat = np.concatenate([many.reshape(-1) for many in lengths])
        tokens = ranges(np.concatenate([at[:, group.first : group.end].reshape(-1) for group in alike]), flat)
        values, ok = numbers(text, kind, starts[tokens], ends[tokens])
        end = 0
        for group, many in zip(alike, lengths, strict=True):
            begin, end = end, end + int(many.sum())
            found[group.name] = Ragged(values[begin:end], np.ascontiguousarray(many[:, 0] if many.shape[1] == 1 else many))
            rows_ok &= _rows_ok(ok[begin:end], many.sum(axis=1))
    return [found[group.name] for group in ragged], rows_ok


def _rows_ok(ok: Bool, lengths: I64) -> Bool:
    rows_ok = np.ones(len(lengths), np.bool_)
    if not ok.all():
        rows_ok[np.repeat(np.arange(len(lengths)), lengths)[~ok]] = False
    return rows_ok
