"""One reader process: takes tasks on its standard input, gives arrays on its standard output, until the input ends.

A message is 8 bytes of length, little-endian, then that much JSON, then the bytes that the JSON counts. Started by
readers.py with ``python -c``: it imports only NumPy, and not the main script, so it works below any script.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from typing import IO, Any

import numpy as np

from fleet.data.criteo.parse import Block, parse
from fleet.data.criteo.source import Task
from fleet.errors import ConfigError


def main() -> None:
    """Serve tasks until the reading side closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; its end closes our input
    tasks, blocks = sys.stdin.buffer, sys.stdout.buffer
    while (message := receive(tasks)) is not None:
        text = read_exactly(tasks, message["text_bytes"]) if message["text_bytes"] >= 0 else None
        task = Task(message["path"], message["start"], message["end"], text)
        try:
            block = parse(task.load(), message["num_buckets"])
        except ConfigError as error:
            send(blocks, {"refused": [error.what, error.at, error.fix]})
        except Exception:  # noqa: BLE001  our own bug or the disk's failure: the parent raises it, with this traceback
            send(blocks, {"failed": traceback.format_exc()})
        else:
            said = {"num": len(block.label), "num_lines": block.num_lines, "num_bad": block.num_bad, "bad": block.bad}
            send(blocks, said, block.ids.data, block.dense.data, block.label.data)


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


def read_exactly(pipe: IO[bytes], num_bytes: int) -> bytes:
    """Read ``num_bytes``.

    Raises:
        EOFError: the other side ended in the middle of a message.
    """
    data = pipe.read(num_bytes)
    if len(data) < num_bytes:
        raise EOFError
    return data


def receive_block(pipe: IO[bytes], message: dict[str, Any]) -> Block:
    """Read the arrays that follow the JSON of a block."""
    from fleet.data.criteo.layout import NUM_DENSE, NUM_SLOTS
    from fleet.data.criteo.parse import BadLine

    num = message["num"]
    ids = np.frombuffer(read_exactly(pipe, num * NUM_SLOTS * 8), np.int64).reshape(num, NUM_SLOTS)
    dense = np.frombuffer(read_exactly(pipe, num * NUM_DENSE * 4), np.float32).reshape(num, NUM_DENSE)
    label = np.frombuffer(read_exactly(pipe, num * 4), np.float32)
    return Block(ids, dense, label, message["num_lines"], message["num_bad"], [BadLine(*b) for b in message["bad"]])


if __name__ == "__main__":
    main()
