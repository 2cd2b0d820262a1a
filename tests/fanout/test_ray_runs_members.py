"""The Ray backend: the driver's rules on a Ray cluster, the user's connection left open, an address that does not answer."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_rules import hold
from scripts import processes_of, run, start

import fleet
from fleet.errors import ConfigError


@pytest.fixture
def short() -> Iterator[str]:
    """A directory whose name leaves room for Ray's sockets, which may have 107 bytes."""
    made = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.slow
def test_the_rules_hold_on_a_connection_of_the_users(tmp_path: Path, short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray: Any = pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(fleet.__file__).parents[1]), str(Path(__file__).parent)]))
    context = ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False, _temp_dir=short
    )
    try:
        for cluster in (None, context):
            assert fleet.spread([1, 2], backend="ray", cluster=cluster).map(lambda x: -x).gather() == [-1, -2]
        hold({"backend": "ray", "workers": 2}, tmp_path)

        def what_it_sees(_: int) -> tuple[str | None, float]:
            import random

            return os.environ.get("OMP_NUM_THREADS"), random.random()

        seen = fleet.spread(range(4), backend="ray", cpus=2).map(what_it_sees).gather()
        assert {threads for threads, _ in seen} == {"2"}
        here = fleet.spread(range(4), backend="inline").map(what_it_sees).gather()
        assert [number for _, number in seen] == [number for _, number in here]
        with pytest.raises(ConfigError, match="asks for 64 cpus, the machines of the Ray cluster have 2 cpus"):
            fleet.spread([1], backend="ray", cpus=64).map(str).gather()
        with pytest.raises(ConfigError, match="workers=3 of 1 cpus do not fit into the Ray cluster, which holds 2"):
            fleet.spread([1], backend="ray", workers=3).map(str).gather()
        with pytest.raises(ConfigError, match="one connection for each process"):
            fleet.spread([1], backend="ray", cluster="127.0.0.1:9").map(str).gather()
        assert ray.is_initialized()
        assert ray.get(ray.remote(lambda: 5).remote()) == 5
    finally:
        ray.shutdown()
        os.environ.pop("RAY_AUTH_MODE", None)  # ray.init set it


SCRIPT = """
import os, signal, sys, fleet
term = signal.getsignal(signal.SIGTERM)
def member(x):
    return x + 1
if len(sys.argv) > 1:
    where = sys.argv[1]
    def member(x):
        import time
        open(where + "/up", "w").close()
        time.sleep(600)
print(fleet.spread(range(4), backend="ray", workers=2).map(member).gather())
print(os.environ.get("RAY_AUTH_MODE"), signal.getsignal(signal.SIGTERM) == term, sys.modules["ray"].is_initialized())
"""


@pytest.mark.slow
def test_a_script_without_a_guard_starts_ray_and_leaves_nothing(tmp_path: Path, short: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    marker = f"ray{os.getpid()}x"
    status, out, err = run(SCRIPT, cwd=tmp_path, timeout=100, FLEET_TEST_MARKER=marker, TMPDIR=short)
    assert (status, out) == (0, "[1, 2, 3, 4]\nNone True False\n"), err
    assert processes_of(marker) == []


@pytest.mark.slow
def test_a_killed_driver_leaves_no_process_of_ray(tmp_path: Path, short: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    marker = f"ray{os.getpid()}k"
    driver = start(SCRIPT, str(tmp_path), cwd=tmp_path, FLEET_TEST_MARKER=marker, TMPDIR=short)
    until = time.monotonic() + 60
    while not (tmp_path / "up").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert (tmp_path / "up").exists()
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=30)
    until = time.monotonic() + 20
    while processes_of(marker) and time.monotonic() < until:
        time.sleep(0.1)
    assert processes_of(marker) == []


def test_an_address_that_does_not_answer_or_is_not_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    from fleet.fanout.backends import ray_cluster

    monkeypatch.setattr(ray_cluster, "ANSWER_S", 1)
    begin = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts, and never says a word
        for address in ("127.0.0.1:9", f"127.0.0.1:{mute.getsockname()[1]}", "ray://127.0.0.1:9", "nonsense"):
            with pytest.raises(ConfigError, match="did not answer within 1 s"):
                fleet.spread([1], backend="ray", cluster=address).map(str).gather()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(ConfigError, match="RAY_ADDRESS"):
        fleet.spread([1], backend="ray").map(str).gather()
    with pytest.raises(ConfigError, match="is an address or what ray.init\\(\\) returned, got a int"):
        fleet.spread([1], backend="ray", cluster=5).map(str).gather()
    assert time.monotonic() - begin < 10


def test_without_ray_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["ray"] = None
import fleet
try: fleet.spread([1], backend="ray").map(str).gather()
except fleet.errors.ConfigError as error: print(error.fix)
"""
    assert run(code, cwd=tmp_path)[:2] == (0, "pip install ray\n")
