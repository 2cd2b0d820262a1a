"""``custom=[...]``: the same hooks as ours, checked; what a hook does wrong names strategy, hook, place and remedy."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from several import clean_environ
from trainers import Trainers

import fleet
from fleet import DistributedStrategy
from fleet.config import Field
from fleet.errors import ConfigError, StrategyConflict

OWN = Path(__file__).resolve().parents[2] / "examples" / "strategies" / "own.py"
FAULTS = {
    ("strategy", "wrap_model"): "left the model with other parameters",
    ("strategy", "wrap_optimizer"): "returned a NoneType",
    ("strategy", "meets"): "returned 'sometimes'",
    ("strategy", "applies"): "returned 1",
    ("strategy", "on_gradients"): "raised KeyError: 'mine'",
    ("strategy", "shape"): "with a gradient of [2]",
    ("codec", "encode"): "raised ZeroDivisionError: mine",
    ("codec", "bytes"): "encode returned a ndarray",
    ("codec", "decode"): "decode returned float64",
    ("codec", "size"): "decode returned float32[1] for",
}


@pytest.mark.parametrize(("kind", "fault"), list(FAULTS))
def test_a_fault_is_named(pair: Trainers, kind: str, fault: str) -> None:
    for words in pair.run("collective.strategy_jobs:faulty", kind=kind, fault=fault):
        assert f"strategy faulty{'_codec' if kind == 'codec' else ''}: its hook " in words and FAULTS[kind, fault] in words
        assert "at:  " in words and "fix: " in words


def test_a_codec_with_error_feedback(pair: Trainers) -> None:
    """What is sent is half of what there is and of what was held back: nothing is lost but what is still held back."""
    (got, lost), (other, _) = pair.run("collective.strategy_jobs:halved")
    assert all(np.array_equal(got[name], other[name]) for name in got)
    assert set(lost) == set(got) and all(np.isfinite(v).all() and np.abs(v).max() > 0 for v in lost.values())


class Mine(fleet.Strategy):
    name = "mine"
    fields = (Field("k", int, 1, "a number", low=1),)
    conflicts = {"localsgd": "mine says so"}


class NoInit(fleet.Strategy):
    name = "no_init"

    def __init__(self) -> None:
        pass


def test_it_is_part_of_the_strategy() -> None:
    mine = Mine(k=3)
    strategy = DistributedStrategy(custom=[mine])
    assert strategy.custom == (mine,) and strategy.effective()["custom"][0]["k"] == 3
    assert strategy == DistributedStrategy(custom=[Mine(k=3)]) != DistributedStrategy(custom=[Mine(k=4)])
    assert str(mine) == "mine (k 3)"
    with pytest.raises(ConfigError, match="cannot be written"):
        strategy.to_yaml()
    with pytest.raises(StrategyConflict, match="mine says so"):
        strategy.localsgd = True
    with pytest.raises(StrategyConflict, match="mine says so"):
        DistributedStrategy(localsgd=True).custom = [mine]
    with pytest.raises(StrategyConflict, match="one encoding"):
        DistributedStrategy(int8=True, fp16_allreduce=True)


WRONG: list[tuple[Any, str]] = [
    (Mine(), "must be a list"),
    ([Mine], "the class Mine"),
    ([3], "a int"),
    ([Mine(), Mine()], "as another strategy is"),
    ([type("Nameless", (fleet.Strategy,), {})()], "has no name"),
    ([type("Taken", (fleet.Strategy,), {"name": "clip"})()], "as another strategy is"),
    ([NoInit()], "never called the one that it overrides"),
]


@pytest.mark.parametrize(("given", "words"), WRONG)
def test_what_is_no_strategy_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        DistributedStrategy(custom=given)
    assert caught.value.at == "DistributedStrategy.custom"


def test_a_wrong_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="mine.k must be an int >= 1, got 0"):
        Mine(k=0)
    with pytest.raises(ConfigError, match="there is no mine.kk"):
        Mine(kk=1)


def test_the_example(pair: Trainers) -> None:
    assert len(OWN.read_text().splitlines()) <= 42  # 40 and the two of its command
    done = subprocess.run([sys.executable, str(OWN)], env=clean_environ(), capture_output=True, text=True, timeout=60, check=True)
    assert "noise (sigma 0.05)" in done.stdout and float(done.stdout.split("loss ")[-1].split()[0]) < 0.1
    made = runpy.run_path(str(OWN), run_name="own")["Noise"](sigma=0.5)
    assert made.settings == {"sigma": 0.5}


@pytest.mark.parametrize("hook", ["encode", "decode"])
def test_a_codec_that_lacks_one_half_says_which(hook: str) -> None:
    bare = type("Bare", (fleet.Codec,), {"name": "bare"})()
    with pytest.raises(ConfigError, match=f"strategy bare: its hook {hook} is missing") as caught:
        getattr(bare, hook)(*[None] * (1 if hook == "encode" else 2))
    assert f"write {hook}(self" in caught.value.fix
