"""A loader over files of samples that are larger than memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np

from fleet import runtime
from fleet.data import source
from fleet.data.arrays import tensors
from fleet.data.bad_lines import MAX_BAD_LINES, LineCount
from fleet.data.block import I64, Block, Columns, Ragged, Rows, join_columns
from fleet.data.format import Format
from fleet.data.readers import num_readers_for, parse_all
from fleet.data.sampler import GlobalBatches, State
from fleet.data.source import Paths, Task, files
from fleet.data.windows import Cut, Windows
from fleet.errors import ConfigError

_PLACE = "FileLoader"

Ranges = Callable[[], Iterable[tuple[int, int]]]


class FileLoader:
    """Yield batches of the samples in files, as dicts of Paddle tensors or NumPy arrays, parsed by processes of their own.

    A sample is a line (in Parquet a row). A ragged column is a pair ``(values, lengths)``. Each pass is the next epoch;
    ``fleet.distributed_loader(loader)`` gives each trainer its part of every batch or, with ``batch="per_trainer"``, its
    stretch of the lines of all files: whole files where their sizes allow, the files that a border cuts in part. All trainers
    must see the same files.

    Args:
        paths: a file, a directory of parts, or several of them; text plain or gzipped.
        format: how a line becomes columns: MultiSlot, SlotValue, Libffm, Criteo, Parquet, SkipGram, or one of your own.
        batch_size: lines of a batch; the global batch once the loader is distributed. Bad lines leave a batch smaller.
        window: shuffle within at least so many lines (a window ends where a block of 4 MB does), in an order drawn from
            (seed, epoch); 0: the order of the files. Up to three windows are in memory.
        drop_last: leave out a last batch that is not full.
        seed: of the shuffles.
        num_readers: processes that parse; 0 parses in this one; default: one per core that this trainer has, at most 8, none
            below 32 MB.
        max_bad_lines: lines that may be left out (counted, the first shown) before the reading stops.
        to: ``"paddle"`` (tensors; uint64 columns stay arrays) or ``"numpy"``.

    Raises:
        ConfigError: nothing to read, a number out of range; (in a pass) not the format, or too many bad lines, with file and line.
        PeerLost: (in a pass) a reader process ended; safe to read again.

    Cost: the files are read once to count their lines: as fast as the disk, 5 GB/s of text in memory, 0.25 GB/s gzipped.

    Example:
        >>> lines = MultiSlot([Slot("label", "int", 1), Slot("words")])
        >>> for batch in FileLoader("train/", lines, batch_size=512, window=100_000):
        ...     values, lengths = batch["words"]
    """

    def __init__(
        self, paths: Paths, format: Format, batch_size: int, *, window: int = 0, drop_last: bool = False, seed: int = 0,
        num_readers: int | None = None, max_bad_lines: int = MAX_BAD_LINES, to: str = "paddle",
    ) -> None:  # fmt: skip
        if to not in ("paddle", "numpy"):
            raise ConfigError(f'to must be "paddle" or "numpy", got {to!r}', at=_PLACE, fix="use one of the two")
        if not isinstance(format, Format):
            fix = "give a format of fleet.data, such as MultiSlot(...), or an object of a subclass of fleet.data.TextFormat"
            raise ConfigError(f"not a format: {type(format).__name__}", at=_PLACE, fix=fix)
        for name, value in (("window", window), ("max_bad_lines", max_bad_lines)):
            if type(value) is not int or value < 0:
                raise ConfigError(f"{name} must be an int >= 0, got {value!r}", at=_PLACE, fix="use 0 or more")
        self.format, self.batch_size, self.window, self.drop_last, self.seed = format, batch_size, window, drop_last, seed
        self.max_bad_lines, self.to = max_bad_lines, to
        self._paths = files(paths)
        self._sizes = [os.path.getsize(path) for path in self._paths]
        num_readers_for(0, num_readers)  # refuses a wrong number at once
        self._num_readers = num_readers
        pieces = [(file, piece) for file, path in enumerate(self._paths) for piece in format.pieces(path)]
        self._pieces = [(file, piece) for file, piece in pieces if piece.num_lines]
        self._firsts = np.cumsum([0, *(piece.num_lines for _, piece in self._pieces)])
        self.num_lines = int(self._firsts[-1])
        if not self.num_lines:
            raise ConfigError("the files hold no line", at=self._paths[0], fix="check the files: they hold no data")
        backwards = zip(reversed(self._pieces), reversed(self._firsts[:-1].tolist()), strict=True)
        self._first_lines = {self._paths[file]: line for (file, _), line in backwards}  # of each file
        self._said = False  # the bad lines of one pass were shown
        self._batches = GlobalBatches(self.num_lines, batch_size, shuffle=False, drop_last=drop_last, seed=seed, rank=0,
                                      world_size=1, order=self.order())  # fmt: skip

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        epoch, position = self._batches.begin()

        def ranges() -> Iterator[tuple[int, int]]:
            return ((int(p.indices[0]), int(p.indices[-1]) + 1) for p in self._batches.parts(epoch, position))

        read = self.read(epoch, 0, self.num_lines, ranges)
        for (_, num_global), (batch, num_rows) in zip(self._batches.sizes(position), read, strict=True):
            self._batches.consume(num_global)
            if num_rows:
                yield batch
        self._batches.finish()

    def order(self, num_stretches: int = 1) -> str:
        """Name what the order of lines depends on besides the seed: part of a saved position."""
        stretches = f", {num_stretches} stretches" if num_stretches > 1 else ""
        return f"window {self.window}, blocks of {self.format.block_bytes or source.BLOCK_BYTES} bytes{stretches}"

    def state(self) -> State:
        """Return where the epoch stands, in lines; a batch in hand counts as consumed."""
        return self._batches.state()

    def load(self, state: State) -> None:
        """Make the next pass begin where ``state`` was taken; windows before it are not read.

        Raises:
            SnapshotError: the state belongs to other data, another seed or another window; nothing was loaded.
        """
        self._batches.load(state)

    def read(self, epoch: int, low: int, high: int, ranges: Ranges) -> Iterator[tuple[Any, int]]:
        """Yield the batches of an epoch over the lines ``low`` to before ``high``, each with its number of samples.

        Args:
            ranges: called for the batches: ranges of places in the order of these lines, from 0, ascending.
        """
        windows = Windows(self._firsts, low, high, self.window, self.seed)
        plans: deque[int] = deque()  # how many tasks each window has, from the one being read on
        tasks = self._tasks(windows, epoch, windows.cuts(ranges()), plans)
        count = LineCount(self.max_bad_lines, self.format.form, quiet=self._said)
        parsed = parse_all(tasks, self.format, self._readers(), windows.most_blocks + 1)
        held: list[Columns] = []
        try:
            for window, cuts in groupby(windows.cuts(ranges()), attrgetter("window")):
                rows, lines = self._window(parsed, plans, count)
                order = windows.lines(epoch, window)
                for cut in cuts:
                    held.append(rows.take(_rows_of(lines, order[cut.low : cut.high])))
                    if cut.ends_batch:
                        columns, held = join_columns(held), []
                        yield self._batch(columns), num_rows(columns)
            if count.num_samples or count.num_lines == high - low:  # else the rest of an epoch, which may be one bad line
                count.finish(self._paths[0])
            self._said = True
        finally:
            parsed.close()

    def _window(self, parsed: Any, plans: deque[int], count: LineCount) -> tuple[Rows, I64]:
        """Return a window's samples, and the line of each, ascending."""
        blocks: list[Block] = []
        lines: list[I64] = []
        while not blocks or len(blocks) < plans[0]:
            task, block = next(parsed)
            count.add(task.path, block, task.first_line - self._first_lines[task.path])
            numbers = task.line_numbers(block.num_lines)
            lines.append(np.delete(numbers, block.left_out) if block.num_bad else numbers)
            blocks.append(block)
        plans.popleft()
        return Rows(join_columns([block.columns for block in blocks])), np.concatenate(lines)

    def _tasks(self, windows: Windows, epoch: int, cuts: Iterator[Cut], plans: deque[int]) -> Iterator[Task]:
        """Yield what is to be parsed, window by window: of each block the lines that these batches want."""
        open_file, texts = -1, None  # a file, and its blocks from the next one on if it can only be read in order
        for window, of_window in groupby(cuts, attrgetter("window")):
            order = windows.lines(epoch, window)
            wanted = np.unique(np.concatenate([order[cut.low : cut.high] for cut in of_window]))
            first, last = (int(np.searchsorted(self._firsts, line, "right")) - 1 for line in (wanted[0], wanted[-1]))
            borders = np.searchsorted(wanted, self._firsts[first : last + 2])
            chosen = [at for at in range(first, last + 1) if borders[at - first + 1] > borders[at - first]]
            plans.append(len(chosen))
            for at in chosen:
                file, piece = self._pieces[at]
                if file != open_file:
                    open_file, texts = file, self._open(file)
                keep = wanted[borders[at - first] : borders[at - first + 1]] - self._firsts[at]
                text = None
                if texts is not None:
                    text = next((text for start, text in texts if start == piece.start), b"")
                whole = None if len(keep) == piece.num_lines else keep
                yield Task(self._paths[file], piece.start, piece.end, text, int(self._firsts[at]), epoch, whole)

    def _open(self, file: int) -> Iterator[tuple[int, bytes]] | None:
        path = self._paths[file]
        if os.path.getsize(path) != self._sizes[file]:
            fix = "do not write to files that are being read; begin again"
            raise ConfigError("the data file changed after its lines were counted", at=path, fix=fix)
        texts = self.format.texts(path)
        return None if texts is None else _starts(texts)

    def _readers(self) -> int:
        sharing = runtime.current(_PLACE).role.local_size if runtime.is_initialized() else 1
        return num_readers_for(sum(self._sizes), self._num_readers, max(sharing, 1))

    def _batch(self, columns: Columns) -> dict[str, Any]:
        """Return columns in the form that a script gets."""
        batch: dict[str, Any] = {}
        for name, column in columns.items():
            arrays = [column] if not isinstance(column, Ragged) else [column.values] if self.format.flat else list(column)
            values = arrays if self.to == "numpy" else tensors(arrays)
            batch[name] = values[0] if len(values) == 1 else tuple(values)
        return batch


def num_rows(columns: Columns) -> int:
    """Return how many samples columns hold."""
    first = next(iter(columns.values()))
    return len(first.lengths if isinstance(first, Ragged) else first)


def _rows_of(lines: I64, wanted: I64) -> I64:
    """Return the rows of the wanted lines; ``lines`` are those of the rows, ascending. Lines that are no samples have none."""
    rows: I64
    if len(lines) and len(lines) == lines[-1] - lines[0] + 1 and lines[0] <= wanted.min() and wanted.max() <= lines[-1]:
        rows = wanted - lines[0]
        return rows
    at = np.searchsorted(lines, wanted)
    found = at < len(lines)
    found[found] = lines[at[found]] == wanted[found]
    rows = at[found]
    return rows


def _starts(texts: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    at = 0
    for text in texts:
        yield at, text
        at += len(text)
