"""A cluster that a run starts for itself: what its processes inherit, and the keeper that ends them however the driver dies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fleet.fanout import keeper


@contextmanager
def environment(run: str, more: Mapping[str, str]) -> Iterator[None]:
    """What the cluster's processes inherit: the run's id, the driver's modules, one thread; and ``more``, the engine's own words.

    Variables that the engine sets in the block are put back too: they were meant for its processes.
    """
    wanted = {
        "FLEET_FANOUT_RUN": run,
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        **more,
    }
    before = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def start_keeper(run: str) -> subprocess.Popen[bytes]:
    """Start the process that kills all those of ``run`` once its standard input ends."""
    command = [sys.executable, "-I", "-S", keeper.__file__, run, ""]
    environ = {name: text for name, text in os.environ.items() if name != "FLEET_FANOUT_RUN"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True, env=environ)


def end(keeper_process: subprocess.Popen[bytes]) -> None:
    """Let the keeper do its work, and wait for it."""
    assert keeper_process.stdin is not None
    keeper_process.stdin.close()
    keeper_process.wait()
