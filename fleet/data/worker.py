"""One reader process: takes tasks on its standard input, gives columns on its standard output, until the input ends.

A message is 8 bytes of length, little-endian, then that much JSON, then the bytes that the JSON counts. Started by
readers.py with ``python -c``: it imports only NumPy (and pyarrow for Parquet), not the main script, so it works below any
script. The first message names the format and the parent's import path.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from typing import IO, Any

import numpy as np

from fleet.data.block import BadLine, Block, Column, Columns, Ragged
from fleet.data.format import Format, described
from fleet.data.source import Task
from fleet.errors import ConfigError


def main() -> None:
    """Serve tasks until the reading side closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; its end closes our input
    tasks, blocks = sys.stdin.buffer, sys.stdout.buffer
    first = receive(tasks)
    if first is None:
        return
    sys.path += [path for path in first["path"] if path not in sys.path]
    format: Format | None = None
    while (message := receive(tasks)) is not None:
        task = receive_task(tasks, message)
        try:
            if format is None:
                format = described(first["format"])
            block = format.load(task)
        except ConfigError as error:
            send(blocks, {"refused": [error.what, error.at, error.fix]})
        except Exception:  # noqa: BLE001  our own bug or the disk's failure: the parent raises it, with this traceback
            send(blocks, {"failed": traceback.format_exc()})
        else:
            send_block(blocks, block)


def send(pipe: IO[bytes], message: dict[str, Any], *payload: bytes | memoryview) -> None:
    """Write one message."""
    text = json.dumps(message).encode()
    pipe.write(len(text).to_bytes(8, "little") + text)
    for part in payload:
        pipe.write(part)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """Read the JSON of one message; None at the end of the pipe."""
    length = pipe.read(8)
    return None if len(length) < 8 else json.loads(read_exactly(pipe, int.from_bytes(length, "little")))


def read_exactly(pipe: IO[bytes], num_bytes: int) -> bytearray:
    """Read ``num_bytes``.

    Raises:
        EOFError: the other side ended in the middle of a message.
    """
    data = bytearray(num_bytes)
    view = memoryview(data)
    at = 0
    while at < num_bytes:
        got = pipe.readinto(view[at:])  # type: ignore[attr-defined]
        if not got:
            raise EOFError
        at += got
    return data


def send_task(pipe: IO[bytes], task: Task) -> None:
    """Write a task."""
    keep = b"" if task.keep is None else task.keep.astype(np.int64).data
    text = task.text or b""
    message = {"path": task.path, "start": task.start, "end": task.end, "first_line": task.first_line, "epoch": task.epoch,
               "num_keep": -1 if task.keep is None else len(task.keep),
               "text_bytes": -1 if task.text is None else len(text)}  # fmt: skip
    send(pipe, message, keep, text)


def receive_task(pipe: IO[bytes], message: dict[str, Any]) -> Task:
    """Read what follows the JSON of a task."""
    num_keep, text_bytes = message["num_keep"], message["text_bytes"]
    keep = np.frombuffer(read_exactly(pipe, num_keep * 8), np.int64) if num_keep >= 0 else None
    text = bytes(read_exactly(pipe, text_bytes)) if text_bytes >= 0 else None
    return Task(message["path"], message["start"], message["end"], text, message["first_line"], message["epoch"], keep)


def send_block(pipe: IO[bytes], block: Block) -> None:
    """Write a block: in the JSON names, types and shapes, then the arrays."""
    arrays, columns = [np.ascontiguousarray(block.left_out)], []
    for name, column in block.columns.items():
        parts = list(column) if isinstance(column, Ragged) else [column]
        arrays += [np.ascontiguousarray(part) for part in parts]
        columns.append([name, [[part.dtype.str, part.shape] for part in parts]])
    said = {"num_lines": block.num_lines, "num_bad": block.num_bad, "bad": block.bad, "columns": columns}
    send(pipe, said, *(array.reshape(-1).view(np.uint8).data for array in arrays))


def receive_block(pipe: IO[bytes], message: dict[str, Any]) -> Block:
    """Read the arrays that follow the JSON of a block."""
    left_out = np.frombuffer(read_exactly(pipe, message["num_bad"] * 8), np.int64)
    columns: Columns = {}
    for name, parts in message["columns"]:
        arrays = [_receive_array(pipe, *part) for part in parts]
        column: Column = Ragged(*arrays) if len(arrays) > 1 else arrays[0]
        columns[name] = column
    return Block(columns, message["num_lines"], left_out, [BadLine(*b) for b in message["bad"]])


def _receive_array(pipe: IO[bytes], kind: str, shape: list[int]) -> Any:
    dtype = np.dtype(kind)
    size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(read_exactly(pipe, size), dtype).reshape(shape)


if __name__ == "__main__":
    main()
