"""Without a compiler everything but the tables installs; the first use of a table says what to install and how to rebuild.

So does a core that was built from other sources than those that lie beside it.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.errors import ConfigError
from fleet.parameter_server import native

ROOT = Path(__file__).resolve().parents[2]


def test_load_without_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fleet.parameter_server._core", None)  # what import makes of a module that is not there
    with pytest.raises(ConfigError) as caught:
        native.load()
    assert "C++17 compiler" in caught.value.fix and "make build" in caught.value.fix
    assert caught.value.at == "fleet.parameter_server._core"


def tree_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let load() find a copy of the core's sources beside it, and look again."""
    shutil.copytree(native.SOURCES, tmp_path / "core")
    monkeypatch.setattr(native, "SOURCES", str(tmp_path / "core"))
    monkeypatch.setattr(native, "_refuse_another", functools.cache(native._refuse_another.__wrapped__))
    return tmp_path / "core"


def test_a_core_of_other_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a pull without a build: whether a byte, a name or a file differs."""
    index = tree_of(tmp_path, monkeypatch) / "index.h"
    text = index.read_bytes()

    def is_refused() -> None:
        native._refuse_another.cache_clear()
        with pytest.raises(ConfigError, match="built from other sources") as caught:
            native.load()
        assert "make -C" in caught.value.fix and "build_ext --inplace" in caught.value.fix
        assert caught.value.at.endswith(".so")

    assert native.load()
    index.write_bytes(text + b"\n")
    is_refused()
    index.unlink()
    is_refused()
    index.with_name("indices.h").write_bytes(text)
    is_refused()
    index.with_name("indices.h").rename(index)
    native._refuse_another.cache_clear()
    assert native.load()


def test_the_time_of_a_source_does_not_matter_nor_do_sources_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tree_of(tmp_path, monkeypatch)
    for path in sources.rglob("*.cc"):
        path.touch()  # as a checkout does
    assert native.load()
    shutil.rmtree(sources)  # an installed wheel
    native._refuse_another.cache_clear()
    assert native.load()


def test_a_simd_level_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_SIMD", "sse9")
    with pytest.raises(ConfigError, match="sse9") as caught:
        native.load()
    assert caught.value.at == "FLEET_SIMD"


def test_the_simd_level_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_SIMD", "portable")
    assert native.load().core_info()["simd"] == "portable"


def build(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    tree = tmp_path / "tree"
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "fleet", tree / "fleet", ignore=ignore)
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-lib", str(tmp_path / "lib")],
        cwd=tree, env={**os.environ, "CC": "false", "CXX": "false", **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_building_without_a_compiler_warns_loudly(tmp_path: Path) -> None:
    done = build(tmp_path, FLEET_REQUIRE_CORE="")
    assert done.returncode == 0, done.stderr
    assert "WARNING: fleet's parameter-server core was NOT built" in done.stderr and "make build" in done.stderr
    assert (tmp_path / "lib/fleet/parameter_server/native.py").is_file()
    assert not list((tmp_path / "lib").rglob("_core*.so"))


def test_building_without_pybind11_warns_loudly(tmp_path: Path) -> None:
    (tmp_path / "pybind11.py").write_text("raise ImportError('no pybind11 here')\n")
    done = build(tmp_path, FLEET_REQUIRE_CORE="", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "NOT built: pybind11 is not installed" in done.stderr
    assert build(tmp_path / "again", FLEET_REQUIRE_CORE="1", PYTHONPATH=str(tmp_path)).returncode != 0


def test_building_without_a_compiler_fails_where_the_core_is_required(tmp_path: Path) -> None:
    done = build(tmp_path, FLEET_REQUIRE_CORE="1")
    assert done.returncode != 0
