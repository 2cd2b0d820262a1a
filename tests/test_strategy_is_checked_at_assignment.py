"""A wrong name, type or range is refused where it is written: in Python with the field, in YAML with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fleet import DistributedStrategy
from fleet.errors import ConfigError


@pytest.mark.parametrize(
    "name", ["ampere", "strat", "nothing_like_it"]
)
def test_what_is_not_there_names_what_is(name: str) -> None:
    for value in (True, False, None, {}, {"k_steps": 4}):
        with pytest.raises(ConfigError) as caught:
            setattr(DistributedStrategy(), name, value)
        assert repr(name) in caught.value.what and caught.value.at == f"DistributedStrategy.{name}"
        assert "buckets" in caught.value.fix and "parameter_server" in caught.value.fix
    with pytest.raises(ConfigError):
        setattr(DistributedStrategy(), f"{name}_configs", {})


@pytest.mark.parametrize(
    ("wrong", "right"), [("parameter_servr", "parameter_server"), ("bucket", "buckets"), ("timeout", "timeout_s")]
)
def test_a_slip_is_answered_with_the_nearest_name(wrong: str, right: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{right}'"):
        DistributedStrategy(**{wrong: True})
    with pytest.raises(AttributeError, match=f"did you mean '{right}'"):
        getattr(DistributedStrategy(), wrong)


WRONG: list[tuple[str, Any, str]] = [
    ("batch", "globl", "batch"),
    ("batch", None, "batch"),
    ("seed", -1, "seed"),
    ("seed", 1.5, "seed"),
    ("seed", True, "seed"),
    ("timeout_s", "60", "timeout_s"),
    ("timeout_s", 0, "timeout_s"),
    ("timeout_s", float("nan"), "timeout_s"),
    ("timeout_s", float("inf"), "timeout_s"),
    ("buckets", 3, "buckets"),
    ("buckets", {"megabytes": 3}, "buckets.megabytes"),
    ("buckets", {"mb": -3}, "buckets.mb"),
    ("buckets", {"mb": "3"}, "buckets.mb"),
    ("parameter_server", "async", "parameter_server"),
    ("parameter_server", {"consistency": "local"}, "parameter_server.consistency"),
    ("parameter_server", {"consistency": None}, "parameter_server.consistency"),
    ("parameter_server", {"prefetch": 2}, "parameter_server.prefetch"),
    ("parameter_server", {"prefetch": True}, "parameter_server.prefetch"),
    ("parameter_server", {"dense": "servers"}, "parameter_server.dense"),
    ("parameter_server", {"row_optimizer": "lamb"}, "parameter_server.row_optimizer"),
    ("parameter_server", {"row_optimizer": {"name": "lamb"}}, "parameter_server.row_optimizer.name"),
    ("parameter_server", {"row_optimizer": {"epsilon": 1e-6}}, "parameter_server.row_optimizer.name"),
    ("parameter_server", {"row_optimizer": {"name": "adam", "beta1": 1.0}}, "parameter_server.row_optimizer.beta1"),
    ("parameter_server", {"row_optimizer": {"name": "adam", "dense": 1}}, "parameter_server.row_optimizer.dense"),
    ("parameter_server", {"row_optimizer": {"name": "momentum", "nesterov": 1}}, "parameter_server.row_optimizer.nesterov"),
    ("parameter_server", {"row_optimizer": ["adam"]}, "parameter_server.row_optimizer"),
]


@pytest.mark.parametrize(("name", "value", "place"), WRONG)
def test_a_wrong_value(name: str, value: Any, place: str) -> None:
    strategy = DistributedStrategy()
    with pytest.raises(ConfigError) as caught:
        setattr(strategy, name, value)
    assert caught.value.at == f"DistributedStrategy.{place}" and place in caught.value.what
    assert not strategy.is_set(name)  # a refused value leaves nothing behind


@pytest.mark.parametrize(
    ("text", "line", "place"),
    [
        ("strategy:\n  seed: 1\n  amp: true\n", 3, "$.strategy.amp"),
        ("# first\nstrategy:\n  parameter_server:\n    consistency: sometimes\n", 4, "$.strategy.parameter_server.consistency"),
        ("strategy:\n  seed: minus one\n", 2, "$.strategy.seed"),
        ("strategy:\n  buckets: {mb: 4, mbb: 4}\n", 2, "$.strategy.buckets.mbb"),
        ("strategy: [1, 2]\n", 1, "$.strategy"),
        ("strategy:\n  seed: 1\n  seed: 2\n", 3, ""),
        ("strategy:\n  seed: 1\n bad: 2\n", 3, ""),
        ("- 1\n- 2\n", 1, ""),
    ],
)
def test_a_file_is_refused_with_its_line(tmp_path: Path, text: str, line: int, place: str) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        DistributedStrategy.from_yaml(str(path))
    assert caught.value.at.startswith(f"{path}:{line}") and place in caught.value.at


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        DistributedStrategy.from_yaml(str(tmp_path / "none.yaml"))
