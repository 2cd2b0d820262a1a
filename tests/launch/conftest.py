"""The launcher's tests run real processes: small scripts without Paddle."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import kill_harness
from kill_harness import DRIVER, Run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Write a script and start it: ``start(text, "--nproc_per_node", "2", args=["x"], server=None, env={})``."""
    runs: list[Run] = []

    def begin(script: str, *flags: str, args: tuple[str, ...] = (), server: str = "", env: dict[str, str] | None = None) -> Run:
        (tmp_path / "train.py").write_text(textwrap.dedent(script))
        command: tuple[str, ...] = ("-m", "fleet.launch")
        if server:
            (tmp_path / "server_for_test.py").write_text(textwrap.dedent(server))
            (tmp_path / "driver.py").write_text(DRIVER)
            command = ("driver.py", str(tmp_path / "server_for_test.py"))
        runs.append(kill_harness.start([*flags, "train.py", *args], tmp_path, env, command))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            os.kill(run.process.pid, signal.SIGKILL)
            run.process.wait(10)
        assert kill_harness.survivors_after(run, 5.0) == []


@pytest.fixture
def run(start: Callable[..., Run]) -> Callable[..., Run]:
    """Like ``start``, and wait for the end."""

    def whole(script: str, *flags: str, **rest: object) -> Run:
        begun = start(script, *flags, **rest)
        begun.wait()
        return begun

    return whole
