"""The async backend: many members wait at once; the driver's rules hold as elsewhere."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

import fleet
from fleet.errors import ConfigError, MemberTimeout


async def late(x: int) -> int:
    await asyncio.sleep(0.2)
    return x + 1


async def fails(x: int) -> int:
    await asyncio.sleep(0)
    if x == 3:
        raise KeyError(x)
    return x


def test_a_thousand_wait_together_and_come_back_in_order() -> None:
    begin = time.monotonic()
    assert fleet.spread(range(1000), backend="async").map(late).map(lambda v: v * 2).gather() == [2 * (x + 1) for x in range(1000)]
    assert time.monotonic() - begin < 20  # one after the other: 200


def test_errors_retries_limits_nesting_and_journal(tmp_path: Path) -> None:
    with pytest.raises(KeyError) as caught:
        fleet.spread(range(6), backend="async").map(fails).gather()
    assert "member 3 failed" in "".join(getattr(caught.value, "__notes__", [str(caught.value.__cause__)]))
    assert fleet.spread(range(5), backend="async", retries=1, backoff_s=0).map(fails).gather(errors="skip") == [0, 1, 2, 4]
    nested = fleet.spread([1, 2], backend="async").map(fails).spread(lambda v: range(v)).map(fails)
    assert nested.filter(lambda v: v < 9).gather() == [[0], [0, 1]]
    for cached in (False, True):
        kept = fleet.spread(range(3), backend="async", run_dir=str(tmp_path), cache="run").map(fails).gather(errors="collect")
        assert [(r.value, r.cached) for r in kept] == [(x, cached) for x in range(3)]

    at_once = most = 0

    async def counted(x: int) -> int:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        return fleet.current().index  # type: ignore[union-attr]

    assert fleet.spread(range(20), backend="async", limit={"gpt": 4}).map(counted).gather() == list(range(20))
    assert most == 4


def test_a_timeout_cancels() -> None:
    cancelled = []

    async def hangs(x: int) -> int:
        try:
            await asyncio.sleep(60 if x else 0)
        except asyncio.CancelledError:
            cancelled.append(x)
            raise
        return x

    results = fleet.spread([0, 1], backend="async", timeout=0.1).map(hangs).gather(errors="collect")
    assert results[0].value == 0 and isinstance(results[1].error, MemberTimeout) and cancelled == [1]


def test_plain_functions_and_batches_are_refused() -> None:
    with pytest.raises(ConfigError, match="no function of the chain is a coroutine function: str"):
        fleet.spread([1], backend="async").map(str).gather()
    with pytest.raises(ConfigError, match="batch cannot be kept by the async backend"):
        fleet.spread([1], backend="async").batch(2).map(late).gather()
