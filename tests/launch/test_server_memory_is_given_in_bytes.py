"""--server_memory: what is read, what is refused, and what the servers are told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.errors import ConfigError
from fleet.launch.values import server_memory


@pytest.mark.parametrize(("text", "size"), [("8G", 8 << 30), ("512m", 512 << 20), ("200000K", 200000 << 10), (1 << 30, 1 << 30)])
def test_bytes(text: str, size: int) -> None:
    assert server_memory(text, "here") == size


@pytest.mark.parametrize("text", ["", "8", "8T", "-8G", "1.5G", "64M", True, "G"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="from 128M on"):
        server_memory(text, "here")


def test_it_needs_a_server(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("")
    command = [sys.executable, "-m", "fleet.launch", "--server_memory", "8G", str(script)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 64 and "there is no server to limit" in ended.stderr


def test_servers_are_told(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("")
    command = [sys.executable, "-m", "fleet.launch", "--server_num", "1", "--server_memory", "256M", "--dry_run", str(script)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and json.dumps(256 << 20) in ended.stdout, ended
