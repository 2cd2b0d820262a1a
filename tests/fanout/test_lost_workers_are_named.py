"""R5, R7, R18: killed, exited, hung, too large members; what they leave behind; the death of the driver."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from scripts import processes_of, start

import fleet
from fleet.errors import ConfigError, MemberLost, MemberTimeout


def test_one_killed_member_of_twenty_costs_one(tmp_path: Path) -> None:
    def member(x: int) -> int:
        if x == 3:
            print("last words")
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    results = fleet.spread(range(20), workers=2).map(member).gather(errors="collect")
    assert [r.index for r in results.failed] == [3] and len(results.values) == 19
    lost = results[3]
    assert lost.state == "lost" and isinstance(lost.error, MemberLost) and lost.attempts == 2
    assert "the worker of member 3 was killed by SIGKILL" in str(lost.error) and "last words" in str(lost.error)
    assert lost.logs == "last words"


def test_a_lost_worker_is_repeated_and_others_are_not_charged(tmp_path: Path) -> None:
    def member(x: int) -> int:
        mark = tmp_path / str(x)
        if x == 5 and not mark.exists():
            mark.touch()
            os._exit(7)
        found = fleet.current()
        assert found is not None
        return found.attempt

    values = fleet.spread(range(40), workers=1).map(member).gather()
    assert values[5] == 2 and values.count(1) == 39
    with pytest.raises(MemberLost, match="exited with status 7"):
        fleet.spread([0], lost_retries=0).map(lambda x: os._exit(7)).gather()


def test_a_member_that_runs_too_long_is_killed_and_its_neighbour_is_not() -> None:
    def member(x: int) -> int:
        time.sleep(60 if x == 1 else 0)
        return x

    begin = time.monotonic()
    results = fleet.spread(range(4), workers=2, timeout=0.5).map(member).gather(errors="collect")
    assert time.monotonic() - begin < 20
    assert [r.state for r in results] == ["ok", "timeout", "ok", "ok"]
    assert isinstance(results[1].error, MemberTimeout) and isinstance(results[1].error, TimeoutError)


def test_a_member_that_ignores_term_and_leaves_children_is_killed_with_them(tmp_path: Path) -> None:
    def member(x: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "1000"])
        (tmp_path / "child").write_text(str(child.pid))
        time.sleep(1000)

    with pytest.raises(MemberTimeout):
        fleet.spread([0], timeout=0.4).map(member).gather()
    assert not _alive(int((tmp_path / "child").read_text()))


def test_children_that_members_leave_behind_end_with_the_pool(tmp_path: Path) -> None:
    def member(x: int) -> None:
        one = subprocess.Popen(["sleep", "1000"])
        two = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        (tmp_path / str(x)).write_text(f"{one.pid} {two.pid}")

    fleet.spread([0, 1]).map(member).gather()
    for name in ("0", "1"):
        assert [pid for pid in map(int, (tmp_path / name).read_text().split()) if _alive(pid)] == []


def test_a_member_that_grows_too_large_is_stopped() -> None:
    def member(x: int) -> int:
        hold = bytearray(x << 20)
        time.sleep(0.0 if x < 100 else 60)
        return len(hold) >> 20

    results = fleet.spread([1, 400], workers=2, memory="200M", lost_retries=0).map(member).gather(errors="collect")
    assert results[0].value == 1
    assert "more than memory=210 MB" in str(results[1].error)


@pytest.mark.parametrize("option", [{"timeout": 1}, {"memory": "1G"}, {"cpus": 0.5}])
@pytest.mark.parametrize("backend", ["thread", "inline"])
def test_what_a_backend_cannot_keep_is_refused(backend: str, option: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"cannot be kept by the {backend} backend"):
        fleet.spread([1], backend=backend, **option).map(str).gather()


def test_nobody_outlives_a_killed_driver(tmp_path: Path) -> None:
    marker = f"marker{os.getpid()}x"
    code = """
import fleet, subprocess, sys, time
def member(x):
    subprocess.Popen(["sleep", "1000", ], start_new_session=True)
    open(f"began{x}", "w").close()
    while True: pass
fleet.spread([0, 1], workers=2).map(member).gather()
"""
    process = start(code, cwd=tmp_path, FLEET_TEST_MARKER=marker)
    _until(lambda: (tmp_path / "began0").exists() and (tmp_path / "began1").exists())
    process.kill()
    process.communicate()
    _until(lambda: not processes_of(marker))


def test_leaving_as_completed_ends_the_workers_and_nothing_stale_comes_later() -> None:
    stream = fleet.spread(range(100), workers=2).map(lambda x: time.sleep(0.05) or os.getpid()).as_completed()
    pid = next(stream).value
    stream.close()
    assert not _alive(pid)
    assert fleet.spread([5]).map(lambda x: x).gather() == [5]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _until(true: object, timeout_s: float = 30) -> None:
    assert callable(true)
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
