"""The Dask backend: the driver's rules on a Dask cluster, the user's client left open, an address that does not answer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_rules import hold
from scripts import processes_of, run

import fleet
from fleet.errors import ConfigError


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    from fleet.fanout.backends.dask import Dask
    from fleet.fanout.backends.protocol import Opening

    own = Dask()
    own.open(Opening((), 2, None, 1, 0, None, "", True, ""))
    with distributed.Client(own._cluster, set_as_default=False) as made:
        yield made
    own.close()


@pytest.mark.slow
def test_the_rules_hold(client: Any, tmp_path: Path) -> None:
    on = {"backend": "dask", "cluster": client}
    hold(on, tmp_path)
    assert client.status == "running"


@pytest.mark.slow
def test_a_script_without_a_guard_starts_a_cluster_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    marker = f"dask{os.getpid()}x"
    code = "import fleet\nprint(fleet.spread(range(4), backend='dask', workers=2).map(lambda x: x + 1).gather())\n"
    status, out, err = run(code, cwd=tmp_path, timeout=100, FLEET_TEST_MARKER=marker)
    assert (status, out) == (0, "[1, 2, 3, 4]\n"), err
    assert processes_of(marker) == []


def test_an_address_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    from fleet.fanout.backends import dask

    monkeypatch.setattr(dask, "ANSWER_S", 1)
    begin = time.monotonic()
    with pytest.raises(ConfigError, match="did not answer within 1 s"):
        fleet.spread([1], backend="dask", cluster="tcp://127.0.0.1:9").map(str).gather()
    assert time.monotonic() - begin < 30


def test_a_missing_package_and_a_cluster_for_another_backend(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["distributed"] = None
import fleet
try: fleet.spread([1], backend="dask").map(str).gather()
except fleet.errors.ConfigError as error: print(error.fix)
"""
    assert run(code, cwd=tmp_path)[:2] == (0, "pip install dask distributed\n")
    with pytest.raises(ConfigError, match="the local backend takes no cluster"):
        fleet.spread([1], backend="local", cluster="tcp://x:1").map(str).gather()
