"""A server that is started wrongly ends at once with one clear error, no trace."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.parameter_server import server

ROOT = Path(__file__).resolve().parents[2]


def start(**variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLEET_", "PADDLE_", "TRAINING_ROLE"))}
    given = {"FLEET_ROLE": "server", "FLEET_SERVER_INDEX": "0", "FLEET_SECRET": "s", "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([sys.executable, "-m", "fleet.parameter_server.server"], env={**kept, **given}, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=30)  # fmt: skip


@pytest.mark.parametrize("variables, words", [
    (dict(FLEET_SERVERS="tcp:127.0.0.1:1", FLEET_SECRET=""), "a server needs the job secret"),
    (dict(FLEET_SERVERS="tcp:127.0.0.1:1", FLEET_SERVER_INDEX="1"), "there is no endpoint for server 1"),
    (dict(FLEET_SERVERS="127.0.0.1:70"), "'127.0.0.1:70' is no endpoint"),
    (dict(FLEET_SERVERS="tcp:127.0.0.1:70000"), "'tcp:127.0.0.1:70000' is no endpoint"),
    (dict(FLEET_SERVERS="unix:relative"), "'unix:relative' is no endpoint"),
    (dict(FLEET_SERVERS="unix:/nowhere/at/all"), "cannot listen on unix:/nowhere/at/all"),
    (dict(FLEET_SERVERS="unix:/" + "x" * 200), "cannot listen on unix:/xxx"),
    (dict(FLEET_SERVERS="tcp:192.0.2.1:9000"), "cannot listen on tcp:192.0.2.1:9000"),
    (dict(FLEET_SERVERS="tcp:127.0.0.1:1", FLEET_ROLE="trainer"), "this process is not a server"),
])  # fmt: skip
def test_wrong_variables(
    variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Called in this process: a process each would cost ten times as much."""
    for name in [n for n in os.environ if n.startswith(("FLEET_", "PADDLE_", "TRAINING_ROLE"))]:
        monkeypatch.delenv(name)
    for name, value in {"FLEET_ROLE": "server", "FLEET_SERVER_INDEX": "0", "FLEET_SECRET": "s", **variables}.items():
        monkeypatch.setenv(name, value)
    assert server.main() == 1
    told = capfd.readouterr().err
    assert told.startswith("fleet.errors.ConfigError: ") and words in told and "  fix: " in told


def test_a_port_that_is_taken() -> None:
    """In a process of its own: the status, and no trace."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = start(FLEET_SERVERS=f"tcp:127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 1 and "Address already in use" in done.stderr and "Traceback" not in done.stderr
