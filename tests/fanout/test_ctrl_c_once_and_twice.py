"""R15: once: nothing more is started and running members have their grace; twice: ended at once. Handles: start, cancel, wait."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from scripts import processes_of, run, start

import fleet
from fleet.errors import ConfigError, TaskError

CODE = """
import fleet, sys, time
def member(x):
    open(f"began-{x}", "w").close()
    time.sleep(SECONDS)
    return x
SECONDS = float(sys.argv[1])
try:
    fleet.spread(range(50), workers=2, run_dir="run", cache="run", grace_s=20).map(member).gather()
except KeyboardInterrupt:
    print("interrupted")
"""


def _until(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_once(tmp_path: Path) -> None:
    process = start(CODE, "0.7", cwd=tmp_path)
    _until(tmp_path / "began-1")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "interrupted\n"), err
    assert "2 members are running and have 20 s; Ctrl-C again ends them" in err
    assert f"2 members finished, kept in {tmp_path}/run" in err
    assert sorted(p.name for p in tmp_path.glob("began-*")) == ["began-0", "began-1"]


def test_twice(tmp_path: Path) -> None:
    marker = f"ctrlc{os.getpid()}x"
    process = start(CODE, "100", cwd=tmp_path, FLEET_TEST_MARKER=marker)
    _until(tmp_path / "began-1")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "interrupted\n") and time.monotonic() - begin < 10
    assert "0 members finished" in err and processes_of(marker) == []


def test_inline_is_interrupted_in_the_member(tmp_path: Path) -> None:
    code = """
import fleet, os, signal
def member(x):
    if x == 2: os.kill(os.getpid(), signal.SIGINT)
    return x
try: fleet.spread(range(5), backend="inline", run_dir="run").map(member).gather()
except KeyboardInterrupt: print("interrupted")
print(fleet.spread(range(5), backend="inline", run_dir="run", cache="run").map(lambda x: x).gather())
"""
    assert run(code, cwd=tmp_path)[:2] == (0, "interrupted\n[0, 1, 2, 3, 4]\n")


@pytest.mark.parametrize("backend", ["inline", "thread", "local"])
def test_a_run_on_a_thread_of_its_own(backend: str) -> None:
    running = fleet.spread(range(5), backend=backend).map(lambda x: print("p") or x * 2).start()
    assert running.result(3, timeout=30).value == 6
    assert [r.value for r in running.wait(30)] == [0, 2, 4, 6, 8]
    assert running.status() == {"done": 5, "failed": 0, "cached": 0, "running": 0}
    assert sorted(r.value for r in running.as_completed()) == [0, 2, 4, 6, 8]
    assert running.logs(1) == ("p" if backend == "local" else "")
    with pytest.raises(TaskError, match="without member 9"):
        running.result(9)
    with pytest.raises(ConfigError, match="workers must be"):
        fleet.spread([1], workers=0).start()


@pytest.mark.parametrize("backend", ["thread", "local"])
def test_cancel_keeps_what_is_finished(backend: str) -> None:
    running = fleet.spread(range(1000), backend=backend, workers=2, grace_s=10).map(lambda x: time.sleep(0.02) or x).start()
    running.result(0, timeout=30)
    with pytest.raises(TimeoutError):
        running.wait(0.01)
    kept = running.cancel()
    assert 1 <= len(kept) < 1000 and all(r.ok for r in kept)
