"""R12: what a member prints, at the level of file descriptors, is its own file; the screen stays clean."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import run

import fleet


def test_python_c_and_children_into_one_file_of_the_member(tmp_path: Path) -> None:
    def member(x: int) -> None:
        if x == 1:
            return
        print("python", x)
        os.write(1, b"descriptor\n")
        ctypes.CDLL(None).puts(b"c library")  # in libc's buffer: out only if somebody flushes it
        subprocess.run(["sh", "-c", "echo child; echo error >&2"], check=True)
        print("stderr", file=sys.stderr)

    results = fleet.spread(range(3), workers=1, run_dir=str(tmp_path)).map(member).gather(errors="collect")
    assert sorted(p.name for p in (tmp_path / "members").iterdir()) == ["0.log", "2.log"]
    for number in (0, 2):
        lines = (tmp_path / "members" / f"{number}.log").read_text().splitlines()
        assert sorted(lines) == sorted([f"python {number}", "descriptor", "c library", "child", "error", "stderr"])
        assert results[number].log == str(tmp_path / "members" / f"{number}.log") and "c library" in results[number].logs
    assert results[1].logs == "" and list((tmp_path / "workers").iterdir()) == []


def test_a_child_that_stays_keeps_writing_into_its_members_file(tmp_path: Path) -> None:
    def member(x: int) -> None:
        if x == 0:
            subprocess.Popen(["sh", "-c", "echo now; sleep 0.3; echo later"])
        print("member", x)
        __import__("time").sleep(0.8 * x)

    fleet.spread([0, 1], workers=1, run_dir=str(tmp_path)).map(member).gather()
    assert set((tmp_path / "members" / "0.log").read_text().split()) == {"now", "later", "member", "0"}
    assert (tmp_path / "members" / "1.log").read_text() == "member 1\n"


def test_a_member_that_prints_ten_megabytes_is_not_held_in_memory(tmp_path: Path) -> None:
    spread = fleet.spread([0, 1], workers=1, run_dir=str(tmp_path)).map(lambda x: print("y" * (10 << 20)))
    results = spread.gather(errors="collect")
    assert os.path.getsize(results[1].log) > 10 << 20 and len(results[1].logs) <= 8192


def test_attempts_and_nested_members_have_names_of_their_own(tmp_path: Path) -> None:
    def member(v: int) -> int:
        found = fleet.current()
        assert found is not None
        print("attempt", found.attempt)
        if found.attempt == 1 and v == 11:
            raise OSError
        return v

    spread = fleet.spread([1], run_dir=str(tmp_path), retries=1, backoff_s=0).spread(lambda v: [10, 11]).map(member)
    assert spread.gather() == [[10, 11]]
    assert sorted(p.name for p in (tmp_path / "members").iterdir()) == ["0.0.log", "0.1.attempt2.log", "0.1.log"]


def test_the_screen_stays_clean_and_a_failures_log_outlives_the_run(tmp_path: Path) -> None:
    code = """
import fleet
def member(x):
    print("noise")
    raise ValueError("no")
try: fleet.spread([1]).map(member).gather()
except ValueError as error: print(open(error.fleet.member.log).read(), end="")
"""
    status, out, err = run(code, cwd=tmp_path, TMPDIR=str(tmp_path))
    assert (status, out, err) == (0, "noise\n", "")
    kept = [p for p in tmp_path.iterdir() if p.name.startswith("fleet-run-")]
    assert len(kept) == 1 and (kept[0] / "members" / "0.log").exists()


def test_progress_is_one_line_where_it_is_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    fleet.spread(range(5), backend="inline", progress=True, name="five").map(str).gather()
    assert capfd.readouterr().err.startswith("five: 5/5 done, 0 running")
