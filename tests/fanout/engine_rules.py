"""The driver's rules, held on somebody else's engine: each engine's tests call this with how it is reached."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import fleet
from fleet.errors import ConfigError, MemberLost, NotPicklable


def hold(on: dict[str, Any], tmp_path: Path) -> None:
    """Order, nesting, batches, the member's own exception, journal, lost workers, refusals."""
    assert fleet.spread(range(20), **on).map(lambda x: x * x).gather() == [x * x for x in range(20)]
    assert fleet.spread(range(5), **on).batch(2).map(lambda xs: [x + 1 for x in xs]).gather() == [1, 2, 3, 4, 5]
    assert fleet.spread([1, 2], **on).spread(lambda v: range(v)).map(lambda e: e + 1).gather() == [[1], [1, 2]]

    def fails(x: int) -> int:
        if x == 3:
            raise KeyError(x)
        return os.getpid()

    with pytest.raises(KeyError) as caught:
        fleet.spread(range(6), **on).map(fails).gather()
    assert "member 3 failed" in "".join(getattr(caught.value, "__notes__", [str(caught.value.__cause__)]))
    assert os.getpid() not in fleet.spread(range(6), **on).map(fails).gather(errors="skip")
    with pytest.raises(NotPicklable, match="its result cannot be sent"):
        fleet.spread([1], **on).map(lambda x: __import__("threading").Lock()).gather()
    for cached in (False, True):
        kept = fleet.spread(range(3), run_dir=str(tmp_path), cache="run", **on).map(lambda x: -x).gather(errors="collect")
        assert [(r.value, r.cached) for r in kept] == [(-x, cached) for x in range(3)]

    def dies(x: int) -> int:
        if x == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    results = fleet.spread(range(20), lost_retries=1, **on).map(dies).gather(errors="collect")
    assert isinstance(results[3].error, MemberLost)
    assert len(results.values) == 19
    with pytest.raises(ConfigError, match=f"timeout cannot be kept by the {on['backend']} backend"):
        fleet.spread([1], timeout=1, **on).map(str).gather()
