"""R3, R4, R6: the member's own exception with a note; collect, skip, stand-in; retries with the same seed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import fleet
from fleet.errors import ConfigError, NotPicklable, TaskError

BACKENDS = ["inline", "thread", "local"]
every_backend = pytest.mark.parametrize("backend", BACKENDS)


class TooDeep(Exception):
    def __init__(self, depth: int, limit: int) -> None:
        super().__init__(depth, limit)
        self.depth = depth


class Unbuildable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fails_at_3(x: int) -> int:
    if x == 3:
        raise TooDeep(x, 2)
    return x * 10


@every_backend
def test_the_first_failure_is_raised_as_itself(backend: str) -> None:
    with pytest.raises(TooDeep) as caught:
        fleet.spread(range(6), backend=backend).map(fails_at_3).gather()
    error: Any = caught.value
    assert error.depth == 3
    note = "\n".join(getattr(error, "__notes__", [str(error.__cause__)]))
    assert "member 3 failed after 1 attempt; item: 3" in note
    assert ("in fails_at_3" in note) == (backend == "local")  # elsewhere its own traceback is there
    assert error.fleet.member.index == 3
    assert {r.index: r.value for r in error.fleet.partial.ok}.items() >= {0: 0, 1: 10}.items()


@every_backend
def test_collect_skip_and_a_value_that_stands_in(backend: str) -> None:
    spread = fleet.spread(range(5), backend=backend).map(fails_at_3)
    results = spread.gather(errors="collect")
    assert [r.ok for r in results] == [True, True, True, False, True]
    assert results.values == [0, 10, 20, 40] and results.failed[0].state == "error"
    assert isinstance(results.failed[0].error, TooDeep) and "TooDeep" in results.failed[0].traceback
    with pytest.raises(TooDeep):
        _ = results[3].value
    assert results.best().index == 4 and results.best(mode="min").index == 0 and results.best(lambda v: -v).index == 0
    assert spread.gather(errors="skip") == [0, 10, 20, 40]
    assert spread.gather(errors=None) == [0, 10, 20, None, 40]
    nested = fleet.spread([1, 3], backend=backend).map(fails_at_3).spread(lambda v: [v]).gather(errors=-1)
    assert nested == [[10], -1]


@every_backend
def test_retries_are_counted_delayed_and_filtered(backend: str, tmp_path: Path) -> None:
    def flaky(x: int) -> int:
        tries = tmp_path / str(x)
        tries.write_text((tries.read_text() if tries.exists() else "") + ".")
        if x == 1 and len(tries.read_text()) < 3:
            raise OSError("again")
        if x == 2:
            raise KeyError("never again")
        member = fleet.current()
        assert member is not None
        return member.attempt

    spread = fleet.spread(range(3), backend=backend, retries=2, retry_on=OSError, backoff_s=0.01).map(flaky)
    results = spread.gather(errors="collect")
    assert [r.attempts for r in results] == [1, 3, 1] and results[1].value == 3
    assert isinstance(results[2].error, KeyError)


@every_backend
def test_failed_members_are_retried_at_their_own_places(backend: str, tmp_path: Path) -> None:
    def until_told(x: int) -> int:
        if x and not (tmp_path / "now").exists():
            raise OSError(x)
        member = fleet.current()
        assert member is not None
        return x * 100 + member.index

    first = fleet.spread([0, 5, 6], backend=backend).map(until_told).gather(errors="collect")
    assert [r.index for r in first.failed] == [1, 2]
    (tmp_path / "now").touch()
    assert first.retry().values == [0, 501, 602]


@every_backend
def test_an_iterator_that_raises(backend: str) -> None:
    def items() -> Any:
        yield 1
        raise ZeroDivisionError("in the generator")

    with pytest.raises(ZeroDivisionError, match="in the generator"):
        fleet.spread(items(), backend=backend).map(str).gather()
    seen = []
    with pytest.raises(ZeroDivisionError):
        for result in fleet.spread(items(), backend=backend).map(str).as_completed():
            seen.append(result.value)
    assert seen == ["1"]


@every_backend
def test_sys_exit_and_a_bad_inner_spread_are_failures_of_the_member(backend: str) -> None:
    results = fleet.spread([0], backend=backend).map(lambda x: exit(3)).gather(errors="collect")
    assert isinstance(results[0].error, SystemExit)
    with pytest.raises(ConfigError, match="must return the elements"):
        fleet.spread([1], backend=backend).spread(lambda x: x).gather()


def test_exceptions_that_cannot_be_rebuilt_are_named() -> None:
    def unbuildable(x: int) -> None:
        raise Unbuildable(x, 2)

    with pytest.raises(TaskError, match="member 0 raised Unbuildable: 1 and 2"):
        fleet.spread([1]).map(unbuildable).gather()


def test_what_cannot_be_pickled_is_named_with_its_variable() -> None:
    import threading

    lock = threading.Lock()

    def uses_lock(x: int) -> Any:
        return lock

    said = r"the function uses_lock cannot be sent.*closure variable 'lock' of uses_lock.*_thread.lock"
    with pytest.raises(NotPicklable, match=said):
        fleet.spread([1]).map(uses_lock).gather()
    with pytest.raises(NotPicklable, match=r"its result cannot be sent.*\['deep'\]\[1\] holds a _thread.lock"):
        fleet.spread([1]).map(lambda x: {"deep": [1, __import__("threading").Lock()]}).gather()
    results = fleet.spread([1, {"a": lock}, 3]).map(str).gather(errors="collect")
    assert [r.ok for r in results] == [True, False, True]
    assert isinstance(results[1].error, NotPicklable) and "['a'] holds a _thread.lock" in str(results[1].error)
    assert fleet.spread([lock], backend="thread").map(lambda x: x).gather() == [lock]


@pytest.mark.parametrize("backend", ["thread", "local"])
def test_running_members_have_their_grace(backend: str) -> None:
    def work(x: int) -> int:
        if x == 0:
            time.sleep(0.1)
            raise ValueError("no")
        time.sleep(0.4)
        return x

    with pytest.raises(ValueError) as caught:
        fleet.spread(range(20), backend=backend, workers=2).map(work).gather()
    partial: Any = caught.value.fleet.partial  # type: ignore[attr-defined]
    assert [r.index for r in partial.ok] == [1] and len(partial) == 2
    begin = time.monotonic()
    with pytest.raises(ValueError):
        fleet.spread([0, 60], backend=backend, workers=2, grace_s=0.1).map(lambda x: work(x) if not x else time.sleep(x)).gather()
    assert time.monotonic() - begin < 10


def test_secrets_of_an_item_are_not_shown() -> None:
    with pytest.raises(ValueError) as caught:
        fleet.spread([{"api_key": "hush", "x": 1}], backend="inline").map(lambda p: int("no")).gather()
    note = "\n".join(getattr(caught.value, "__notes__", [str(caught.value.__cause__)]))
    assert "hush" not in note and "'x': 1" in note
