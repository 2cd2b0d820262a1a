"""Shuffling within a window: the order of the lines of files that are too many to be drawn from at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fleet.data.block import I64


class Cut(NamedTuple):
    """A part of a batch that lies in one window: the places ``low`` to before ``high`` of the window's order."""

    window: int
    low: int
    high: int
    ends_batch: bool


class Windows:
    """The lines ``low`` to before ``high`` in windows of whole blocks, each in an order drawn from (seed, epoch, its first line).

    Args:
        firsts: the first line of each block, and behind them the number of all lines.
        window: a window holds at least so many lines, except the last; 0: no shuffling.
    """

    def __init__(self, firsts: I64, low: int, high: int, window: int, seed: int) -> None:
        self.window, self.seed = window, seed
        self.bounds = [low]
        for border in firsts[(firsts > low) & (firsts < high)].tolist():
            if border - self.bounds[-1] >= window:
                self.bounds.append(border)
        self.bounds.append(high)
        self.most_blocks = int(np.diff(np.searchsorted(firsts, self.bounds)).max()) + 1
        self._drawn = lru_cache(maxsize=4)(self._draw)  # the one being parsed, those ahead of it, the one being handed out

    def lines(self, epoch: int, window: int) -> I64:
        """Return a window's lines in their order; not to be written to."""
        return self._drawn(epoch, window)

    def cuts(self, ranges: Iterable[tuple[int, int]]) -> Iterator[Cut]:
        """Yield the parts of batches; a batch is a range of places in the order of all lines, counted from 0."""
        first = self.bounds[0]
        for low, high in ranges:
            low, high = low + first, high + first
            while low < high:
                window = bisect_right(self.bounds, low) - 1
                begin, end = self.bounds[window], min(self.bounds[window + 1], high)
                yield Cut(window, low - begin, end - begin, end == high)
                low = end

    def _draw(self, epoch: int, window: int) -> I64:
        first, end = self.bounds[window], self.bounds[window + 1]
        lines = np.arange(first, end, dtype=np.int64)
        if self.window:
            np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch, first]))).shuffle(lines)
        lines.flags.writeable = False
        return lines
