"""R13, R14: what was shown is in the journal, however the driver ends; a second run does what is missing, and says why more."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from scripts import run, start

import fleet
from fleet.errors import ConfigError, SnapshotError

BACKENDS = ["inline", "thread", "local"]
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def counting(folder: Path) -> Any:
    def member(x: int) -> int:
        with open(folder / f"ran-{x}", "a") as file:
            file.write(".")
        return x * 10

    return member


def ran(folder: Path) -> dict[int, int]:
    return {int(p.name[4:]): len(p.read_text()) for p in folder.glob("ran-*")}


@every_backend
def test_a_second_run_does_only_what_is_missing(backend: str, tmp_path: Path) -> None:
    kept = {"backend": backend, "run_dir": str(tmp_path / "run"), "cache": "run"}
    assert fleet.spread(range(4), **kept).map(counting(tmp_path)).gather() == [0, 10, 20, 30]
    results = fleet.spread(range(6), **kept).map(counting(tmp_path)).gather(errors="collect")
    assert [r.cached for r in results] == [True] * 4 + [False] * 2 and results.values == [x * 10 for x in range(6)]
    assert ran(tmp_path) == {x: 1 for x in range(6)}
    kept["cache"] = "off"
    fleet.spread(range(2), **kept).map(counting(tmp_path)).gather()
    assert ran(tmp_path)[0] == 2


@every_backend
def test_nested_dropped_batched_and_failed_members(backend: str, tmp_path: Path) -> None:
    kept = {"backend": backend, "run_dir": str(tmp_path / "run"), "cache": "run"}
    count = counting(tmp_path)

    def nested() -> Any:
        return fleet.spread([1, 2], **kept).spread(lambda v: [v * 10, v * 10 + 1]).map(count).filter(lambda v: v != 110)

    assert nested().gather() == nested().gather() == [[100], [200, 210]]
    assert ran(tmp_path) == {10: 1, 11: 1, 20: 1, 21: 1}
    batched = fleet.spread(range(30, 35), **kept).batch(2).map(lambda values: [count(v) for v in values])
    assert batched.gather() == batched.gather() == [x * 10 for x in range(30, 35)]
    assert ran(tmp_path)[34] == 1

    def fails(x: int) -> int:
        count(x)
        return 1 // (x - 41)

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fleet.spread([40, 41], grace_s=5, **kept).map(fails).gather()
    assert ran(tmp_path)[40] == 1 and ran(tmp_path)[41] == 2


SCRIPT = """
import fleet, sys, helpers
RATE = {rate}
def train(x):
    open("ran", "a").write(str(x))
    return x * RATE + helpers.plus(x) + {constant}
print(fleet.spread({items}, run_dir="run", cache="run", workers=1, backend="{backend}").map(train).gather())
"""


def test_a_changed_function_helper_global_or_item_runs_again_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text("def plus(x):\n    return 1\n")
    given: dict[str, Any] = {"rate": 0.5, "constant": 0, "items": [1, 2], "backend": "inline"}

    def again(**changed: Any) -> tuple[str, str]:
        given.update(changed)
        status, out, err = run(SCRIPT.format(**given), cwd=tmp_path, PYTHONHASHSEED=str(random.randrange(1000)))
        assert status == 0, err
        text = (tmp_path / "ran").read_text() if (tmp_path / "ran").exists() else ""
        (tmp_path / "ran").write_text("")
        return text, err

    assert again() == ("12", "")
    assert again() == ("", "")
    ran_now, said = again(constant=3)
    assert ran_now == "12" and "`train` changed: constant" in said and "0 -> 3" in said and "first: member 0" in said
    ran_now, said = again(rate=0.25)
    assert ran_now == "12" and "`train` changed: global RATE 0.5 -> 0.25" in said
    assert again(items=[1, 5])[0] == "5"
    assert "its item changed (first: member 1)" in again(items=[1, 7])[1]
    assert again(constant=0, rate=0.5, items=[1, 2]) == ("", "")
    (tmp_path / "helpers.py").write_text("def plus(x):\n    return 2\n")
    os.utime(tmp_path / "helpers.py", (1, 1))
    ran_now, said = again()
    assert ran_now == "12" and "`train` changed: helpers.plus" in said
    assert again(backend="local")[0] == ""


KILLED = """
import fleet, sys, time
def member(x):
    with open(f"ran-{x}", "a") as file: file.write(".")
    time.sleep(0.004)
    return x
shown = open("shown", "a", buffering=1)
for r in fleet.spread(range(120), run_dir="run", cache="run", workers=2).map(member).as_completed():
    shown.write(f"{r.index}\\n")
print("whole")
"""


def _killed(tmp_path: Path, seconds: float) -> None:
    process = start(KILLED, cwd=tmp_path)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def _resumed(tmp_path: Path) -> None:
    shown = [int(line) for line in (tmp_path / "shown").read_text().split()] if (tmp_path / "shown").exists() else []
    before = ran(tmp_path)
    (tmp_path / "shown").unlink(missing_ok=True)
    status, out, err = run(KILLED, cwd=tmp_path)
    assert (status, out) == (0, "whole\n"), err
    assert sorted(int(line) for line in (tmp_path / "shown").read_text().split()) == list(range(120))
    after = ran(tmp_path)
    assert [x for x in shown if after[x] != before[x]] == []


def test_a_killed_driver_loses_nothing_that_it_had_shown(tmp_path: Path) -> None:
    process = start(KILLED, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "shown").exists() or (tmp_path / "shown").read_text().count("\n") < 20:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _resumed(tmp_path)


@pytest.mark.slow
def test_a_driver_killed_at_20_random_moments(tmp_path: Path) -> None:
    moments = random.Random(20)
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        for _ in range(2):
            _killed(folder, moments.uniform(0.05, 0.8))
        _resumed(folder)


def test_two_drivers_in_one_directory(tmp_path: Path) -> None:
    stream = fleet.spread([1, 2], backend="inline", run_dir=str(tmp_path)).map(str).as_completed()
    next(stream)
    with pytest.raises(ConfigError, match=f"another driver is running in this run directory .process {os.getpid()}"):
        fleet.spread([1], backend="inline", run_dir=str(tmp_path)).map(str).gather()
    stream.close()
    assert fleet.spread([1], backend="inline", run_dir=str(tmp_path)).map(str).gather() == ["1"]


def test_a_journal_that_was_cut_is_mended_and_a_damaged_one_refused(tmp_path: Path) -> None:
    kept = {"backend": "inline", "run_dir": str(tmp_path / "run"), "cache": "run"}
    journal = tmp_path / "run" / "journal"
    fleet.spread(range(3), **kept).map(counting(tmp_path)).gather()
    whole = journal.read_bytes()
    for cut in (1, 5, 40):
        journal.write_bytes(whole[:-cut])
        assert fleet.spread(range(3), **kept).map(counting(tmp_path)).gather() == [0, 10, 20]
    assert ran(tmp_path) == {0: 1, 1: 1, 2: 4}
    middle = whole.index(b"\n", 30) + 3
    journal.write_bytes(whole[:middle] + b"X" + whole[middle + 1 :])
    with pytest.raises(SnapshotError, match="damaged at byte"):
        fleet.spread(range(3), **kept).map(counting(tmp_path)).gather()
    journal.write_bytes(b"something else\n")
    with pytest.raises(SnapshotError, match="does not begin as a journal does"):
        fleet.spread(range(3), **kept).map(counting(tmp_path)).gather()
    journal.write_bytes(b"")
    assert fleet.spread(range(3), **kept).map(counting(tmp_path)).gather() == [0, 10, 20]


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_ends_the_run_and_keeps_what_was_shown(small_disk: Path, tmp_path: Path) -> None:
    kept = {"backend": "inline", "run_dir": str(small_disk / "run"), "cache": "run"}
    shown = []

    def large(x: int) -> bytes:
        counting(tmp_path)(x)
        return bytes(100_000)

    with pytest.raises(SnapshotError, match="the journal cannot be written: No space left on device"):
        for result in fleet.spread(range(30), **kept).map(large).as_completed():
            shown.append(result.index)
    assert 5 <= len(shown) <= 10
    found = fleet.spread(range(len(shown)), **kept).map(large).gather(errors="collect")
    assert all(r.cached for r in found) and ran(tmp_path)[0] == 1


def test_items_without_stable_content_and_a_cache_without_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='cache="run" needs a directory that stays'):
        fleet.spread([1], cache="run")
    with pytest.raises(ConfigError, match="the item of member 0 has no key: a TextIOWrapper has no stable content"):
        fleet.spread([open(os.devnull)], backend="inline", run_dir=str(tmp_path)).map(str).gather()
