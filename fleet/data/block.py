"""What a piece of a file becomes: columns with one row per sample, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
I64 = npt.NDArray[np.int64]

NUM_SHOWN = 5  # bad lines of a block that are kept to be shown


class Ragged(NamedTuple):
    """A column with any number of values per sample.

    ``values`` ``[sum of lengths, ...]`` follow each other sample by sample; ``lengths`` is ``int64[n]``, or ``int64[n, slots]``
    where several slots are one column.
    """

    values: Array
    lengths: I64


Column = Array | Ragged
Columns = dict[str, Column]


class BadLine(NamedTuple):
    """A line that is not a sample. ``line`` counts from 0 within the block."""

    line: int
    reason: str
    text: str


class Block(NamedTuple):
    """The samples of a block of lines, and what was left out of it."""

    columns: Columns
    num_lines: int
    left_out: I64  # the lines, from 0 within the block, that are no samples; ascending
    bad: list[BadLine]  # the first NUM_SHOWN of them

    @property
    def num_bad(self) -> int:
        """Lines that were left out."""
        return len(self.left_out)

    @property
    def num_samples(self) -> int:
        """Lines that are samples."""
        return self.num_lines - len(self.left_out)


def join(blocks: Sequence[Block]) -> Block:
    """Return blocks that follow each other as one; there is at least one."""
    if len(blocks) == 1:
        return blocks[0]
    bad: list[BadLine] = []
    left_out: list[I64] = []
    num_lines = 0
    for block in blocks:
        bad += [b._replace(line=b.line + num_lines) for b in block.bad]
        left_out.append(block.left_out + num_lines)
        num_lines += block.num_lines
    columns = join_columns([block.columns for block in blocks])
    return Block(columns, num_lines, np.concatenate(left_out), bad[:NUM_SHOWN])


def join_columns(parts: Sequence[Columns]) -> Columns:
    """Return the same columns of several parts one after the other; there is at least one part."""
    if len(parts) == 1:
        return parts[0]
    joined: Columns = {}
    for name, first in parts[0].items():
        every = [part[name] for part in parts]
        if isinstance(first, Ragged):
            joined[name] = Ragged(*(np.concatenate(arrays) for arrays in zip(*every, strict=True)))
        else:
            joined[name] = np.concatenate(every)
    return joined


class Rows:
    """Columns from which rows are taken again and again."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self._ends = {name: np.cumsum(_per_row(column)) for name, column in columns.items() if isinstance(column, Ragged)}

    def take(self, rows: I64) -> Columns:
        """Return some rows of each column, as copies."""
        taken: Columns = {}
        for name, column in self.columns.items():
            if not isinstance(column, Ragged):
                taken[name] = column.take(rows, axis=0)
                continue
            lengths = column.lengths.take(rows, axis=0)
            chosen = lengths if lengths.ndim == 1 else lengths.sum(axis=1)
            starts = self._ends[name][rows] - chosen
            taken[name] = Ragged(column.values.take(ranges(starts, chosen), axis=0), lengths)
        return taken


def _per_row(column: Ragged) -> I64:
    found: I64 = column.lengths if column.lengths.ndim == 1 else column.lengths.sum(axis=1)
    return found


def ranges(starts: I64, lengths: I64) -> I64:
    """Return start, start + 1, ... of each start, as many as its length says, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    found: I64 = np.repeat(starts - (ends - lengths), lengths)
    found += np.arange(total, dtype=np.int64)
    return found
