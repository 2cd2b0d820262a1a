"""R10: what cannot be is refused at once, with what to do; limits hold."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

import fleet
from fleet.errors import ConfigError

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"workers": 0}, "workers must be an int >= 1, got 0"),
    ({"workers": 2.5}, "workers must be an int >= 1"),
    ({"cpus": 0}, "cpus must be a number > 0"),
    ({"timeout": -1}, "timeout must be a number > 0"),
    ({"retries": -1}, "retries must be an int >= 0"),
    ({"seed": "x"}, "seed must be an int"),
    ({"cache": "disk"}, "cache='disk' is not known"),
    ({"limit": {"db": 0}}, "limit of 'db' must be an int >= 1"),
    ({"memory": "lots"}, "memory must be bytes or like '2G'"),
    ({"retry_on": "OSError"}, "retry_on must be exception types"),
    ({"progress": "no"}, "progress='no' is not known"),
    ({"worker": 2}, "did you mean workers"),
]


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fleet.spread([1], **options)
    assert said in str(caught.value)


def test_more_than_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(ConfigError, match="asks for 5000 cpus, this machine gives"):
        fleet.spread([1], cpus=5000).map(str).gather()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match="asks for 2 GPUs, this machine gives 1"):
        fleet.spread([1], gpus=2).map(str).gather()
    with pytest.raises(ConfigError, match="2 workers with 1 GPUs each need 2, this machine gives 1"):
        fleet.spread([1], gpus=1, workers=2).map(str).gather()


def test_backends_and_items() -> None:
    with pytest.raises(ConfigError, match="there is no backend 'treads'") as caught:
        fleet.spread([1], backend="treads").map(str).gather()
    assert 'backend="thread"?' in str(caught.value)
    for items in ("abc", {"a": 1}, 7, b"x"):
        with pytest.raises(ConfigError, match="a spread takes a list"):
            fleet.spread(items)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="takes a function, got 3"):
        fleet.spread([1]).map(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a batch has an int"):
        fleet.spread([1]).batch(0)
    with pytest.raises(TypeError, match="lazy"):
        list(fleet.spread([1]))


def test_tokens_hold_over_all_spreads_of_a_run() -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    def query(x: int) -> int:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.01)
        with lock:
            at_once -= 1
        return x

    def made(number: int) -> Any:
        return fleet.spread(range(10), backend="thread", workers=8, limit={"warehouse": number}).map(query)

    assert fleet.gather(made(3), made(3)) == (list(range(10)),) * 2
    assert most == 3
    with pytest.raises(ConfigError, match="limit 'warehouse' to 3 and 4"):
        fleet.gather(made(3), made(4))
