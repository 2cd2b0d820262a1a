"""Functions of ``python -``, of scripts without a guard, of the user's own modules; classes of __main__ in what is sent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from scripts import ROOT, run

import fleet

CODE = """
import dataclasses, fleet, mine
@dataclasses.dataclass
class Point:
    x: int
class Mine(Exception): pass
OFFSET = 100
def member(p):
    if p.x == 9: raise Mine("nine")
    return Point(mine.twice(p.x) + OFFSET)
bonus = 7
found = fleet.spread([Point(1), Point(2)]).map(member).map(lambda p: Point(p.x + bonus)).gather()
assert [type(p) is Point for p in found] == [True, True]
try:
    fleet.spread([Point(9)]).map(member).gather()
except Mine as error:
    print([p.x for p in found], error)
"""


def test_a_script_without_a_guard(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def twice(x):\n    return 2 * x\n")
    assert run(CODE, cwd=tmp_path) == (0, "[109, 111] nine\n", "")


def test_standard_input_as_the_script(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def twice(x):\n    return 2 * x\n")
    done = subprocess.run(
        [sys.executable, "-"], input=CODE, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "[109, 111] nine\n", "")


def test_importing_fleet_and_spreading_loads_neither_paddle_nor_numpy(tmp_path: Path) -> None:
    code = """
import sys, fleet
def loaded(x): return sorted({"paddle", "numpy"} & set(sys.modules))
print(fleet.spread([1]).map(loaded).gather(), loaded(1))
"""
    assert run(code, cwd=tmp_path)[:2] == (0, "[[]] []\n")


def test_threads_of_libraries_are_the_members_cpus() -> None:
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS", "FLAGS_paddle_num_threads"]
    assert fleet.spread([0], cpus=1).map(lambda x: [os.environ[n] for n in names]).gather() == [["1"] * 5]


def test_gpus_are_shared_out(monkeypatch: object) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")  # type: ignore[attr-defined]
    seen = fleet.spread(range(6), gpus=1, workers=3).map(lambda x: os.environ["CUDA_VISIBLE_DEVICES"]).gather()
    assert set(seen) <= {"4", "5", "6"}
