"""Arrays of 1 MB and more: once into shared memory, back by file, writable, nobody sees another member's changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import fleet

numpy = pytest.importorskip("numpy")


def shared() -> list[str]:
    return [name for name in os.listdir("/dev/shm") if name.startswith("fleet-")]


def test_an_array_of_every_item_and_of_the_function_is_written_once(tmp_path: Path) -> None:
    x, y, before = numpy.arange(400_000.0), numpy.ones(300_000), shared()

    def member(item: tuple[Any, int]) -> tuple[float, int, int]:
        array, number = item
        array[0] += 1000  # private: the next member finds it as it was
        mine = [d for d in os.listdir("/dev/shm") if d.startswith("fleet-") and d not in before]
        files = [f for d in mine for f in os.listdir(f"/dev/shm/{d}")]
        return float(array[0] + y[0]), number, len(files)

    found = fleet.spread([(x, i) for i in range(6)], workers=2).map(member).gather()
    assert [(a, n) for a, n, _ in found] == [(1001.0, i) for i in range(6)] and x[0] == 0
    assert {files for _, _, files in found} == {2}
    assert shared() == before


def test_a_generator_may_fill_one_array_again_and_again() -> None:
    def items() -> Any:
        array = numpy.zeros(200_000)
        for i in range(4):
            array[:] = i
            yield array

    assert fleet.spread(items(), workers=1).map(lambda a: float(a.sum())).gather() == [200_000.0 * i for i in range(4)]


def test_large_results_come_back_by_file_and_writable(tmp_path: Path) -> None:
    kept = {"run_dir": str(tmp_path), "cache": "run", "workers": 2}
    make = lambda i: {"a": numpy.full(300_000, i), "s": "x" * i}  # noqa: E731
    results = fleet.spread([1, 2], **kept).map(make).gather(errors="collect")
    assert len(list((tmp_path / "results").iterdir())) == 2 and (tmp_path / "journal").stat().st_size < 10_000
    value = results[1].value
    value["a"][0] = 7
    assert value["a"][1] == 2 and value["s"] == "xx"
    again = fleet.spread([1, 2], **kept).map(make).gather(errors="collect")
    assert [r.cached for r in again] == [True, True] and again[1].value["a"][0] == 2
    next((tmp_path / "results").glob("0*")).unlink()
    third = fleet.spread([1, 2], **kept).map(make).gather(errors="collect")
    assert [r.cached for r in third] == [False, True]


def test_a_body_above_16_mb_and_values_of_a_temporary_directory() -> None:
    (text,) = fleet.spread([1]).map(lambda x: "ab" * (9 << 20)).gather()
    assert len(text) == 18 << 20
    (array,) = fleet.spread([1]).map(lambda x: numpy.arange(1_000_000)).gather()
    assert int(array.sum()) == 499_999_500_000


def test_inner_members_and_threads(tmp_path: Path) -> None:
    big = fleet.spread([3], workers=1).map(lambda n: numpy.ones(200_000) * n).spread([1, 2]).map(lambda p: float(p[0][0]) * p[1])
    assert big.gather() == [[3.0, 6.0]]
    kept = {"run_dir": str(tmp_path), "cache": "run", "backend": "thread"}
    for _ in range(2):
        (array,) = fleet.spread([1], **kept).map(lambda x: numpy.ones(200_000)).gather()
        assert array.sum() == 200_000
