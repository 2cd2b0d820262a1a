"""Several reader processes that parse tasks; their blocks come in the order of the tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from fleet.data import worker
from fleet.data.block import Block
from fleet.data.format import Format, describe
from fleet.data.source import Task
from fleet.errors import ConfigError, PeerLost

Process = subprocess.Popen[bytes]

_ROOT = str(Path(__file__).parents[2])
# Not multiprocessing: its start methods import the user's main script again or fork a process that holds sockets.
_COMMAND = [sys.executable, "-c", f"import sys; sys.path[0] = {_ROOT!r}; from fleet.data.worker import main; main()"]
_AHEAD = 2  # tasks in hand per reader: one being parsed, one ready


def num_readers_for(num_bytes: int, num_readers: int | None, sharing: int = 1) -> int:
    """Return how many processes to start: what was asked for, else one per core that each of ``sharing`` trainers on this
    machine has, at most 8; 0 (this process) below 32 MB and on one core."""
    if num_readers is None:
        # Starting one takes up to 0.25 s (measured on busy cores), in which this process parses some 50 MB.
        cores = len(os.sched_getaffinity(0))
        return 0 if num_bytes < 32 << 20 or cores == 1 else max(1, min(cores // sharing, 8))
    if num_readers < 0:
        fix = "use 0 to read in this process, or leave it out"
        raise ConfigError(f"num_readers must be an int >= 0, got {num_readers}", at="fleet.data", fix=fix)
    return num_readers


def parse_all(
    tasks: Iterable[Task], format: Format, num_readers: int, ahead: int = 0
) -> Generator[tuple[Task, Block], None, None]:
    """Yield each task with its block, in order, parsed by ``num_readers`` processes (0: by this one).

    ``ahead`` blocks are parsed ahead of the caller, at least two per reader. The processes end when the iterator does, also
    when it is left early; they end by themselves if this process dies.

    Raises:
        ConfigError: a file cannot be read as text, or the format's class cannot be imported by a reader.
        PeerLost: a reader process ended.
    """
    if num_readers == 0:
        for task in tasks:
            yield task._replace(text=None), format.load(task)
        return
    ahead = max(ahead, _AHEAD * num_readers)
    said = describe(format)
    processes = [_start(said) for _ in range(num_readers)]
    idle: SimpleQueue[Process] = SimpleQueue()
    for process in processes:
        idle.put(process)
    # One thread per reader; they are joined when the executor is left, below.
    pool = ThreadPoolExecutor(num_readers, thread_name_prefix="fleet-reader")
    waiting: deque[tuple[Task, Future[Block]]] = deque()
    try:
        for task in tasks:
            waiting.append((task._replace(text=None), pool.submit(_ask, idle, task)))
            if len(waiting) >= ahead:
                yield _first(waiting)
        while waiting:
            yield _first(waiting)
    finally:
        for process in processes:
            process.kill()  # it holds nothing but its memory; a thread that waits for it sees the end of its pipe
        pool.shutdown(wait=True, cancel_futures=True)
        for process in processes:
            _reap(process)


def _first(waiting: deque[tuple[Task, Future[Block]]]) -> tuple[Task, Block]:
    task, future = waiting.popleft()
    return task, future.result()


def _start(format: str) -> Process:
    # One thread of BLAS: a reader multiplies nothing, and starting threads takes longer than the rest.
    environ = dict(os.environ, OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    process = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ)
    assert process.stdin is not None
    try:
        worker.send(process.stdin, {"format": format, "path": sys.path})
    except BrokenPipeError:
        pass  # it ended at once: whoever gives it a task says so
    return process


def _reap(process: Process) -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        try:
            pipe.close()
        except BrokenPipeError:
            continue  # what was still buffered for a reader that is gone
    process.wait()


def _ask(idle: SimpleQueue[Process], task: Task) -> Block:
    process = idle.get()
    assert process.stdin is not None and process.stdout is not None
    try:
        worker.send_task(process.stdin, task)
        reply = worker.receive(process.stdout)
        if reply is None:
            raise EOFError
        if "refused" in reply:
            what, at, fix = reply["refused"]
            raise ConfigError(what, at=at, fix=fix)
        if "failed" in reply:
            raise PeerLost(f"a reader process failed:\n{reply['failed']}", at=task.path, fix="see its traceback above")
        return worker.receive_block(process.stdout, reply)
    except (EOFError, BrokenPipeError) as error:
        fix = "if the machine is out of memory, set num_readers lower; num_readers=0 reads in this process and shows the cause"
        raise PeerLost(f"reader process {process.pid} ended in the middle of a block", at=task.path, fix=fix) from error
    finally:
        idle.put(process)
