"""R1, R2, R9, R19: order, stages without a barrier, nesting, batches, filters: the same on every backend."""

from __future__ import annotations

import time
from typing import Any

import pytest

import fleet
from fleet.errors import ConfigError

BACKENDS = ["inline", "thread", "local"]
every_backend = pytest.mark.parametrize("backend", BACKENDS)


@every_backend
def test_input_order_whatever_the_completion_order(backend: str) -> None:
    def slow_first(x: int) -> int:
        time.sleep(0.15 if x == 0 else 0)
        return x * 10

    assert fleet.spread(range(8), backend=backend, workers=None if backend == "inline" else 2).map(slow_first).gather() == [
        x * 10 for x in range(8)
    ]


@pytest.mark.parametrize("backend", ["thread", "local"])
def test_as_completed_gives_the_order_of_completion_and_the_index(backend: str) -> None:
    def sleep(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    spread = fleet.spread([0.5, 0.0, 0.0], backend=backend, workers=2).map(sleep)
    assert [r.index for r in spread.as_completed()][-1] == 0
    assert [r.value for r in spread.as_completed(order="input")] == [0.5, 0.0, 0.0]


@every_backend
def test_an_empty_list_and_duplicate_items(backend: str) -> None:
    assert fleet.spread([], backend=backend).map(str).gather() == []
    assert fleet.spread([7, 7, 7], backend=backend).map(str).gather() == ["7"] * 3
    assert fleet.spread([[], [1]], backend=backend).spread(lambda v: v).map(str).gather() == [[], ["1"]]


@pytest.mark.parametrize("backend", ["thread", "local"])
def test_a_member_passes_its_stages_without_waiting_for_others(backend: str) -> None:
    def slow_first(x: int) -> int:
        time.sleep(1.0 if x == 0 else 0)
        return x

    begin = time.monotonic()
    first = next(iter(fleet.spread([0, 1], backend=backend, workers=2).map(slow_first).map(lambda x: -x).as_completed()))
    assert first.value == -1 and time.monotonic() - begin < 0.9


@every_backend
def test_chains(backend: str) -> None:
    chain = fleet.spread(range(10), backend=backend).map(lambda x: x + 1).filter(lambda x: x % 2).map(lambda x: x * x)
    assert chain.gather() == [1, 9, 25, 49, 81]
    assert fleet.spread([1, 2], backend=backend).gather() == [1, 2]


@every_backend
def test_batches_are_lists_of_neighbours_and_come_back_as_single_members(backend: str) -> None:
    sizes = fleet.spread(range(10), backend=backend).batch(4).map(lambda values: [len(values)] * len(values)).gather()
    assert sizes == [4, 4, 4, 4, 4, 4, 4, 4, 2, 2]
    odd = fleet.spread(range(6), backend=backend).filter(lambda x: x % 2).batch(3).map(lambda v: [x * 10 for x in v]).gather()
    assert odd == [10, 30, 50]
    with pytest.raises(ConfigError, match="batch of 3 values and returned 1 values"):
        fleet.spread(range(3), backend=backend).batch(3).map(lambda values: [sum(values)]).gather()


@every_backend
def test_nested_spreads_cannot_deadlock_on_one_worker(backend: str) -> None:
    def options() -> dict[str, Any]:
        return {"backend": backend} if backend == "inline" else {"backend": backend, "workers": 1}

    nested = fleet.spread([1, 2, 3], **options()).map(lambda x: x * 10).spread(lambda v: range(v // 10)).map(lambda e: e + 1)
    assert nested.gather() == [[1], [1, 2], [1, 2, 3]]
    pairs = fleet.spread("ab".split() + ["c"], **options()).spread(["x", "y"]).map("/".join).gather()
    assert pairs == [["ab/x", "ab/y"], ["c/x", "c/y"]]
    three = fleet.spread([1, 2], **options()).spread([1, 2]).map(sum).spread([10]).map(sum).gather()
    assert three == [[[12], [13]], [[13], [14]]]


@every_backend
def test_a_spread_inside_a_member_takes_the_members_cpus(backend: str) -> None:
    def inner(x: int) -> list[int]:
        return list(fleet.spread(range(x)).map(lambda y: y * x).gather())

    assert fleet.spread([1, 2, 3], backend=backend).map(inner).gather() == [[0], [0, 2], [0, 3, 6]]


@every_backend
def test_several_spreads_share_one_pool(backend: str) -> None:
    a = fleet.spread([1, 2, 3], backend=backend).map(lambda x: x * x)
    b = fleet.spread("xy".split("x"), backend=backend).map(lambda s: s * 2)
    assert fleet.gather(a, b) == ([1, 4, 9], ["", "yy"])
    with pytest.raises(ConfigError, match="disagree about workers"):
        fleet.gather(a, fleet.spread([1], backend=backend, workers=7))


@every_backend
def test_iterators_are_pulled_only_as_workers_get_free(backend: str) -> None:
    pulled = 0

    def items() -> Any:
        nonlocal pulled
        for x in range(1000):
            pulled += 1
            yield x

    options = {} if backend == "inline" else {"workers": 2}
    stream = fleet.spread(items(), backend=backend, **options).map(lambda x: time.sleep(0.003) or x).as_completed()
    for _ in range(3):
        next(stream)
    assert pulled <= 2 * 16 + 4
    stream.close()


@every_backend
def test_coroutine_functions_are_awaited(backend: str) -> None:
    async def late(x: int) -> int:
        import asyncio

        await asyncio.sleep(0)
        return x + 1

    assert fleet.spread([1, 2], backend=backend).map(late).gather() == [2, 3]


def test_grid_and_member() -> None:
    assert fleet.grid(a=[1, 2], b=["x"]) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]
    assert fleet.grid() == [{}]
    with pytest.raises(ConfigError, match="'abc' is no list"):
        fleet.grid(a="abc")

    @fleet.member(retries=2, backend="inline")
    def double(p: dict[str, int]) -> int:
        return p["a"] * 2

    assert double({"a": 4}) == 8 and double.__name__ == "double"
    assert double.spread(fleet.grid(a=[1, 2])).gather() == [2, 4]
    assert fleet.spread(fleet.grid(a=[1, 2])).map(double).options.retries == 2
    with pytest.raises(ConfigError, match="asks for retries=2, the spread for retries=1"):
        fleet.spread([], retries=1).map(double)
