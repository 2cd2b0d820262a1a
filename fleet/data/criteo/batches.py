"""Raw text as batches of arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fleet.data.bad_lines import MAX_BAD_LINES, LineCount
from fleet.data.criteo.parse import Criteo
from fleet.data.readers import num_readers_for, parse_all
from fleet.data.source import Paths, files, tasks
from fleet.errors import ConfigError

Batch = dict[str, npt.NDArray[Any]]


def blocks(paths: Paths, num_buckets: int, num_readers: int | None, count: LineCount) -> Iterator[Batch]:
    """Yield the samples of files block by block, in order.

    Raises:
        ConfigError: nothing to read, not the format, or too many bad lines; the message has file and line.
    """
    format = Criteo(num_buckets)
    found = files(paths)
    num_bytes = sum(map(os.path.getsize, found))
    for task, block in parse_all(tasks(found), format, num_readers_for(num_bytes, num_readers)):
        count.add(task.path, block)
        if block.num_samples:
            yield cast(Batch, block.columns)
    count.finish(found[0])


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
    for block in blocks(paths, num_buckets, num_readers, LineCount(max_bad_lines, Criteo.form)):
        held.append(block)
        num_held += len(block["label"])
        if num_held < batch_size:
            continue
        rows = {name: np.concatenate([b[name] for b in held]) for name in held[0]}
        whole = num_held - num_held % batch_size
        for start in range(0, whole, batch_size):
            yield {name: array[start : start + batch_size] for name, array in rows.items()}
        held, num_held = [{name: array[whole:] for name, array in rows.items()}], num_held - whole
    if num_held:
        yield {name: np.concatenate([b[name] for b in held]) for name in held[0]}
