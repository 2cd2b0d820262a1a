"""``export``: one table's rows as a file for other programs: NumPy's npz, csv, or Parquet by pyarrow.

16-bit floats come as float32, which holds them exactly.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.lib import format as npy

from fleet import disk
from fleet.errors import ConfigError, SnapshotError
from fleet.parameter_server.snapshot import manifest as manifests
from fleet.parameter_server.snapshot.places import newest_in
from fleet.parameter_server.snapshot.reading import Tensors, all_rows_of, spec_of
from fleet.parameter_server.spec import TableSpec

ROW_GROUP = 65536  # rows of a group in a Parquet file
NUMBERS_AT_ONCE = 1 << 18  # as text: 32 MB


def export(core: Any, directory: str, table: str, target: str, with_state: bool = False) -> int:
    """Write a table's rows, as its chain loads to them, to a ``.npz``, ``.csv`` or ``.parquet`` file; return how many.

    Columns: ``key`` (npz: ``keys``), ``weights``, and ``with_state`` those of ``state``, ``life`` and ``seen`` that the table has.
    Memory: two files of rows, and 8 bytes for each row of the deltas in one server's shards.

    Raises:
        ConfigError: the file's ending is another one, or pyarrow is missing.
        SnapshotError: the snapshot is missing, incomplete or damaged, has no such table, or the disk refused; no file is written.
    """
    ending = os.path.splitext(target)[1]
    writers: dict[str, Callable[[str, Callable[[], Iterator[Tensors]]], int]]
    writers = {".npz": _npz, ".csv": _csv, ".parquet": _parquet}
    if ending not in writers:
        raise ConfigError(f"no format for {target!r}", at="--to", fix="give a name that ends in .npz, .csv or .parquet")
    if ending == ".parquet":
        _pyarrow("pyarrow")
    chain = manifests.chain(newest_in(directory))
    spec = spec_of(chain[0], table)

    def rows() -> Iterator[Tensors]:
        some = False
        for block in all_rows_of(core, chain, table):
            some = True
            names = [name for name in block if with_state or name in ("keys", "weights")]
            yield {name: _wide(core, spec, name, block[name]) for name in names}
        if not some:
            state_dim = spec.make(core).state_dim if with_state else 0
            state = {"state": np.zeros((0, state_dim), np.float32)} if state_dim else {}
            yield {"keys": np.zeros(0, np.uint64), "weights": np.zeros((0, spec.dim), np.float32), **state}

    target = os.path.abspath(target)
    temporary = os.path.join(os.path.dirname(target), f".tmp-{uuid.uuid4().hex[:8]}-{os.path.basename(target)}")
    try:
        num_rows = writers[ending](temporary, rows)
        disk.sync(temporary)
        os.replace(temporary, target)
    except OSError as error:
        fix = "free space or give another file; nothing was changed"
        raise SnapshotError(f"cannot write: {error.strerror or error}", at=target, fix=fix) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    return num_rows


def _wide(core: Any, spec: TableSpec, name: str, tensor: Any) -> Any:
    dtype = {"weights": spec.weights, "state": spec.state}.get(name, "float32")
    if dtype == "float32":
        return tensor
    out = np.empty(tensor.shape, np.float32)
    core.widen(tensor.reshape(-1), out.reshape(-1), dtype)
    return out


def _npz(path: str, rows: Callable[[], Iterator[Tensors]]) -> int:
    """Column behind column, each in a pass of its own: their sizes come first in the file."""
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {}
    num_rows = 0
    for block in rows():
        shapes = {name: (tensor.dtype, tensor.shape[1:]) for name, tensor in block.items()}
        num_rows += len(block["keys"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, (dtype, shape) in shapes.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                about = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (num_rows, *shape)}
                npy.write_array_header_1_0(file, about)
                for block in rows():
                    if block[name].size:
                        file.write(np.ascontiguousarray(block[name]).data.cast("B"))
    return num_rows


def _csv(path: str, rows: Callable[[], Iterator[Tensors]]) -> int:
    """Numbers in the shortest form that reads back as the same float32."""
    num_rows = 0
    with open(path, "w", encoding="ascii", newline="") as file:
        for i, block in enumerate(_pieces(rows(), lambda width: NUMBERS_AT_ONCE // width)):
            if i == 0:
                file.write(",".join(_header(block)) + "\n")
            columns = [tensor.reshape(len(tensor), math.prod(tensor.shape[1:])).astype(str) for tensor in block.values()]
            file.writelines(",".join(line) + "\n" for line in np.concatenate(columns, axis=1).tolist())
            num_rows += len(block["keys"])
    return num_rows


def _header(block: Tensors) -> list[str]:
    names = ["key"]
    for name, tensor in list(block.items())[1:]:
        names += [name] if tensor.ndim == 1 else [f"{name}_{i}" for i in range(tensor.shape[1])]
    return names


def _parquet(path: str, rows: Callable[[], Iterator[Tensors]]) -> int:
    """One column ``key``, and lists of fixed length for the others."""
    pa, parquet = _pyarrow("pyarrow"), _pyarrow("pyarrow.parquet")
    num_rows, writer = 0, None
    try:
        for block in _pieces(rows(), lambda _: ROW_GROUP):
            table = _arrow(pa, block)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
            num_rows += len(block["keys"])
    finally:
        if writer is not None:
            writer.close()
    return num_rows


def _arrow(pa: Any, block: Tensors) -> Any:
    columns = {}
    for name, tensor in block.items():
        column = pa.array(np.ascontiguousarray(tensor).reshape(-1))
        if tensor.ndim > 1:
            column = pa.FixedSizeListArray.from_arrays(column, tensor.shape[1])
        columns["key" if name == "keys" else name] = column
    return pa.table(columns)


def _pieces(blocks: Iterable[Tensors], rows_of_width: Callable[[int], int]) -> Iterator[Tensors]:
    for block in blocks:
        num_rows, width = len(block["keys"]), sum(math.prod(tensor.shape[1:]) for tensor in block.values())
        most = max(1, rows_of_width(width))
        for at in range(0, max(1, num_rows), most):  # a piece without rows still says which columns there are
            yield {name: tensor[at : at + most] for name, tensor in block.items()}


def _pyarrow(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        what = f"Parquet files are written by pyarrow, which is missing: {error}"
        raise ConfigError(what, at="--to", fix="pip install pyarrow, or export to .npz or .csv") from None
