"""``make demo`` ends with two lines of measured numbers, and fails if the two AUCs are apart or a run fails."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from several import ROOT, clean_environ

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def demo(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples/ctr/demo.py"), *options]
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=240, env=clean_environ(), stdin=subprocess.DEVNULL
    )


def test_the_two_lines(tmp_path: Path) -> None:
    done = demo(tmp_path, "--samples", "20000", "--epochs", "2")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    single, job = done.stdout.splitlines()[-2:]
    assert re.fullmatch(r"single: AUC 0\.\d{4}, \d+ examples/s", single)
    assert re.fullmatch(r"1 server \+ 2 trainers: AUC 0\.\d{4}, \d+ examples/s", job)
    logs = re.search(r"^logs: (\S+)", done.stdout, re.M)
    assert logs and (tmp_path / logs[1] / "single.log").exists() and (tmp_path / logs[1] / "job" / "server-0.log").exists()
    assert re.search(r"step \d+/\d+ \[#*\.*\]", done.stdout)  # the progress of the job


def test_a_run_that_fails(tmp_path: Path) -> None:
    done = demo(tmp_path, "--samples", "no number")
    assert done.returncode == 1 and "the run failed with status 2; its log:" in done.stderr
