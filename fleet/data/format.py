"""How the lines of files become columns: what a format of ``fleet.data`` is.

A format is a frozen dataclass whose fields JSON can hold: a reader process makes the same one from its class and its fields.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fleet.data import source
from fleet.data.block import I64, NUM_SHOWN, BadLine, Block, Columns, Rows, join
from fleet.data.digits import PADDING, PIECE_BYTES
from fleet.data.source import Piece, Task
from fleet.errors import ConfigError

_TO_WRITE = {
    "load": "write load(self, task) -> Block: task.load() gives its text; or subclass TextFormat and write parse_piece",
    "parse_piece": "write parse_piece(self, text: bytes) -> Block: the columns of some whole lines, and the lines left out",
}


class Format(ABC):
    """Read one kind of file. A format of your own: subclass :class:`TextFormat` in a module of its own.

    Raises:
        ConfigError: (when it is made) the class lacks a method; says what to write.
    """

    form: ClassVar[str]  # what a line looks like, for the error about bad ones
    flat: ClassVar[bool] = False  # ragged columns are handed out without their lengths

    block_bytes: ClassVar[int] = 0  # of text parsed at once; 0: source.BLOCK_BYTES

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """Make one, if the class is complete."""
        for name in sorted(cls.__abstractmethods__):
            fix = _TO_WRITE.get(name, f"write {name}")
            raise ConfigError(f"{cls.__qualname__} is no format: it lacks {name}()", at=cls.__module__, fix=fix)
        return super().__new__(cls)

    def pieces(self, path: str) -> list[Piece]:
        """Return the blocks of a file, with the number of lines in each."""
        return source.pieces(path, self.block_bytes or source.BLOCK_BYTES)

    def texts(self, path: str) -> Iterator[bytes] | None:
        """Return the blocks of a file that can only be read from its beginning on; None where each can be read by itself."""
        return source.unzipped(path, self.block_bytes or source.BLOCK_BYTES) if source.is_zipped(path) else None

    @abstractmethod
    def load(self, task: Task) -> Block:
        """Return a block's samples."""


class TextFormat(Format):
    """Read text with one sample a line."""

    def parse(self, text: bytes) -> Block:
        """Parse a block of whole lines."""
        if not text:
            return self._nothing
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        if text and not text.endswith(b"\n"):
            text = text.removesuffix(b"\r") + b"\n"
        blocks: list[Block] = []
        start = 0
        while start < len(text):
            end = len(text) if start + PIECE_BYTES >= len(text) else text.find(b"\n", start + PIECE_BYTES) + 1
            blocks.append(self.parse_piece(text[start:end]))
            start = end
        return join(blocks)

    @cached_property
    def _nothing(self) -> Block:
        """The columns without a row: of a block in which no line begins."""
        return self.parse_piece(b"")

    @abstractmethod
    def parse_piece(self, text: bytes) -> Block:
        """Parse a few thousand whole lines, each of which ends in a line end."""

    def load(self, task: Task) -> Block:
        """Return a block's samples; lines count from 0 within the whole block, also where only some were asked for."""
        block = self.parse(task.load())
        return block if task.keep is None else _placed(block, task.keep)


def _placed(block: Block, keep: I64) -> Block:
    """Number the bad lines of some lines as they stand in the whole block; rows still count from 0."""
    return block._replace(bad=[b._replace(line=int(keep[b.line])) for b in block.bad])


def finish(columns: Columns, why: npt.NDArray[np.int8], reasons: Sequence[str], text: bytes, ends: I64) -> Block:
    """Make a block: ``why[line]`` is 0 for a sample, else the number (from 1) of its reason.

    Args:
        columns: one row for each line whose ``why`` was 0 or became more only after the columns were made (-n).
        ends: where each line ends, counted with PADDING.
    """
    made = why <= 0
    bad_rows = why[made] != 0
    if bad_rows.any():
        columns = Rows(columns).take(np.flatnonzero(~bad_rows))
    left_out = np.flatnonzero(why)
    bad = []
    for line in left_out[:NUM_SHOWN].tolist():
        start = int(ends[line - 1]) - PADDING + 1 if line else 0
        bad.append(BadLine(line, reasons[abs(int(why[line])) - 1], shown(text, start, int(ends[line]) - PADDING)))
    return Block(columns, len(why), left_out, bad)


def shown(text: bytes, start: int, end: int) -> str:
    """Return a line's beginning, fit to be printed."""
    line = text[start : min(end, start + 60)]
    return repr(line.decode("ascii", "backslashreplace")) + ("..." if end - start > 60 else "")


def describe(format: Format) -> str:
    """Return what makes the same format in another process.

    Raises:
        ConfigError: its class cannot be imported there.
    """
    kind = type(format)
    if kind.__module__ == "__main__" or "<" in kind.__qualname__:
        fix = "put the class into a module of its own, at its top level, or read in this process: num_readers=0"
        raise ConfigError(f"reader processes cannot import the format {kind.__qualname__}", at=kind.__module__, fix=fix)
    fields = {f.name: getattr(format, f.name) for f in dataclasses.fields(format) if f.init}  # type: ignore[arg-type]
    return json.dumps([kind.__module__, kind.__qualname__, fields])


def described(text: str) -> Format:
    """Return the format that ``describe`` described."""
    module, name, fields = json.loads(text)
    made: Any = importlib.import_module(module)
    for part in name.split("."):
        made = getattr(made, part)
    return made(**fields)  # type: ignore[no-any-return]
