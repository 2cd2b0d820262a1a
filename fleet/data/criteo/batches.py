"""Raw text as batches of arrays, and what is done about lines that are none of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.data.criteo.layout import check_num_buckets
from fleet.data.criteo.parse import Block
from fleet.data.criteo.readers import num_readers_for, parse_all
from fleet.data.criteo.source import Paths, Task, files, tasks
from fleet.errors import ConfigError
from fleet.logger import warning

Batch = dict[str, npt.NDArray[Any]]

MAX_BAD_LINES = 100
NUM_SHOWN = 5


class LineCount:
    """Count lines and bad lines of a reading; show the first bad ones; stop beyond ``max_bad_lines``."""

    def __init__(self, max_bad_lines: int) -> None:
        self.max_bad_lines = max_bad_lines
        self.num_lines, self.num_bad, self.num_samples = 0, 0, 0
        self._path, self._lines_before = "", 0
        self._first = ("", "")  # place and fault of the first bad line

    def add(self, path: str, block: Block) -> None:
        """Count a block; blocks of one file come in order.

        Raises:
            ConfigError: there are more bad lines than ``max_bad_lines``.
        """
        if path != self._path:
            self._path, self._lines_before = path, 0
        for i, bad in enumerate(block.bad):
            place = f"{path}:{self._lines_before + bad.line + 1}"
            fault = f"{bad.reason}: {bad.text}"
            self._first = self._first if self._first[0] else (place, fault)
            if self.num_bad + i < NUM_SHOWN:
                warning(f"{place}: left out, {fault}")
        self._lines_before += block.num_lines
        self.num_lines += block.num_lines
        self.num_bad += block.num_bad
        self.num_samples += len(block.label)
        if self.num_bad > self.max_bad_lines:
            raise ConfigError(
                f"{self.num_bad} of the first {self.num_lines} lines are not samples, more than "
                f"max_bad_lines={self.max_bad_lines}; the first one: {self._first[1]}",
                at=self._first[0],
                fix="check that this is the raw Criteo format (label, 13 integers, 26 strings of eight hexadecimal digits, "
                "between tabs); raise max_bad_lines if the lines may be left out",
            )


def blocks(paths: Paths, num_buckets: int, num_readers: int | None, count: LineCount) -> Iterator[Block]:
    """Yield the samples of files block by block, in order.

    Raises:
        ConfigError: nothing to read, not the format, or too many bad lines; the message has file and line.
    """
    check_num_buckets(num_buckets)
    found = files(paths)
    num_bytes = sum(map(os.path.getsize, found))
    parsed: Iterator[tuple[Task, Block]] = parse_all(tasks(found), num_buckets, num_readers_for(num_bytes, num_readers))
    for task, block in parsed:
        count.add(task.path, block)
        if len(block.label):
            yield block
    if not count.num_samples:
        what = f"there is not one sample in {count.num_lines} lines"
        raise ConfigError(what, at=found[0], fix="check the files: they hold no data")
    if count.num_bad:
        share = f"{count.num_bad} of {count.num_lines} lines"
        warning(f"left out {share}, which are not samples (max_bad_lines={count.max_bad_lines})")


def read(
    paths: Paths, *, batch_size: int, num_buckets: int, num_readers: int | None = None, max_bad_lines: int = MAX_BAD_LINES
) -> Iterator[Batch]:
    """Yield batches straight from raw text, in the order of the lines; the last one may be smaller.

    Args:
        paths: a file, a directory of parts, or several of them; plain or gzipped.
        batch_size: samples of a batch.
        num_buckets: ids lie in 0 to ``num_buckets - 1``; how they are made: ``fleet.data.criteo.layout``.
        num_readers: processes that parse; 0 parses in this one; default: one per core, at most 8, none below 32 MB.
        max_bad_lines: lines that may be left out (counted, the first shown) before the reading stops.

    Yields:
        ``{"ids": int64[n, 26], "dense": float32[n, 13], "label": float32[n]}``

    Raises:
        ConfigError: nothing to read, not the format, or too many bad lines; the message has file and line.
        PeerLost: a reader process ended; safe to read again.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be an int >= 1, got {batch_size}", at="fleet.data.criteo", fix="use at least 1")
    held: list[Batch] = []  # less than one batch in all
    num_held = 0
    for block in blocks(paths, num_buckets, num_readers, LineCount(max_bad_lines)):
        held.append({"ids": block.ids, "dense": block.dense, "label": block.label})
        num_held += len(block.label)
        if num_held < batch_size:
            continue
        rows = {name: np.concatenate([b[name] for b in held]) for name in held[0]}
        whole = num_held - num_held % batch_size
        for start in range(0, whole, batch_size):
            yield {name: array[start : start + batch_size] for name, array in rows.items()}
        held, num_held = [{name: array[whole:] for name, array in rows.items()}], num_held - whole
    if num_held:
        yield {name: np.concatenate([b[name] for b in held]) for name in held[0]}
