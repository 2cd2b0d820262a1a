"""Parquet files: columns of numbers and of lists of numbers. Needs pyarrow, which is imported when a file is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fleet.data.block import NUM_SHOWN, Array, BadLine, Block, Column, Ragged, Rows
from fleet.data.format import Format
from fleet.data.source import Piece, Task, reading
from fleet.errors import ConfigError


@dataclass(frozen=True)
class Parquet(Format):
    """Read columns of Parquet files; a row is what a line is elsewhere.

    Numbers and booleans give ``[n]``, fixed-size lists ``[n, size]``, lists ragged columns. Integers become int64 (uint64 stays),
    floats float32. A row with a null in one of the columns, or in one of their lists, counts as a bad line.

    Args:
        columns: those to be read, by name.

    Raises:
        ConfigError: no columns; (when a file is read) pyarrow is missing, no such column, or one that holds no numbers.
    """

    columns: Sequence[str]
    form: ClassVar[str] = "a table without nulls in the columns read"

    def __post_init__(self) -> None:
        names = [self.columns] if isinstance(self.columns, str) else list(self.columns)
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise ConfigError(f"columns must be different names, got {self.columns!r}", at="Parquet", fix="name what is to be read")
        object.__setattr__(self, "columns", names)

    def pieces(self, path: str) -> list[Piece]:
        """Return the row groups of a file: nothing but its footer is read."""
        with _opened(path) as file:
            missing = [name for name in self.columns if name not in file.schema_arrow.names]
            if missing:
                has = ", ".join(file.schema_arrow.names[:20])
                what = f"the file has no column {missing[0]!r}"
                raise ConfigError(what, at=path, fix=f"name some of its columns: {has}")
            return [Piece(i, i + 1, file.metadata.row_group(i).num_rows) for i in range(file.num_row_groups)]

    def texts(self, path: str) -> Iterator[bytes] | None:
        """Return None: each row group can be read by itself."""
        return None

    def load(self, task: Task) -> Block:
        """Return a row group's samples."""
        with _opened(task.path) as file, reading(task.path):
            table = file.read_row_group(task.start, columns=list(self.columns), use_threads=False)
        columns: dict[str, Column] = {}
        bad = np.zeros(table.num_rows, np.bool_)
        for name in self.columns:
            columns[name] = _column(table.column(name), bad, f"{task.path} column {name!r}")
        numbers = np.arange(table.num_rows) if task.keep is None else task.keep
        if task.keep is not None or bad.any():
            columns = Rows(columns).take(numbers[~bad[numbers]])
        left_out = np.flatnonzero(bad[numbers])
        shown = [BadLine(int(numbers[i]), "a null in one of the columns", "null") for i in left_out[:NUM_SHOWN]]
        return Block(columns, len(numbers), left_out, shown)


def _column(chunks: Any, bad: Any, at: str) -> Column:
    """Turn an arrow column into one of ours; rows with a null become zeros and are marked in ``bad``."""
    import pyarrow as pa

    array = chunks.combine_chunks() if chunks.num_chunks != 1 else chunks.chunk(0)
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if array.null_count:
        bad |= array.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(kind):
        # flatten() would leave out what null lists hold.
        inner = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
        values: Array = _numbers(inner, at).reshape(len(array), kind.list_size)
        if inner.null_count:
            bad |= inner.is_null().to_numpy(zero_copy_only=False).reshape(values.shape).any(axis=1)
        return values
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = array.flatten()
        lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        if inner.null_count:
            rows = np.repeat(np.arange(len(array)), lengths)
            bad[rows[inner.is_null().to_numpy(zero_copy_only=False)]] = True
        return Ragged(_numbers(inner, at), lengths)
    return _numbers(array, at)


def _numbers(array: Any, at: str) -> Array:
    import pyarrow as pa

    kind = array.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        to: Any = np.uint64 if pa.types.is_uint64(kind) else np.int64
    elif pa.types.is_floating(kind):
        to = np.float32
    else:
        fix = "write numbers, or hash strings to integers before"
        raise ConfigError(f"it holds {kind}, which are not numbers", at=at, fix=fix)
    filled = array.fill_null(False if pa.types.is_boolean(kind) else 0) if array.null_count else array
    found: Array = filled.to_numpy(zero_copy_only=False).astype(to)
    return found


class _opened:
    """Open a Parquet file, and say what is wrong with it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> Any:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            fix = "pip install pyarrow, or in fleet's source tree: pip install '.[parquet]'"
            raise ConfigError(f"Parquet files are read by pyarrow, which is missing: {error}", at=self.path, fix=fix) from error
        try:
            with reading(self.path):
                self.file = parquet.ParquetFile(self.path)
        except pyarrow.ArrowException as error:
            raise ConfigError(f"not a Parquet file: {str(error):.200}", at=self.path, fix="check the file") from error
        return self.file

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.file.close()
        if kind is not None and kind.__module__.startswith("pyarrow"):
            fix = "it is damaged: copy it again"
            raise ConfigError(f"the file cannot be read: {str(error):.200}", at=self.path, fix=fix) from error
