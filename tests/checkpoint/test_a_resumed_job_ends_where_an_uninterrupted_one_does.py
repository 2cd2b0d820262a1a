"""A job that stopped in the middle of an epoch and was started again ends with the same bits as one that never stopped."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

LAYOUTS = [(1, 0, True), (1, 1, True), (2, 1, True), (2, 2, True), (2, 0, False)]  # trainers, servers, tables


def same(found: list[Any], expected: list[Any]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert set(mine["weights"]) == set(theirs["weights"])
        for name, value in mine["weights"].items():
            assert value.tobytes() == theirs["weights"][name].tobytes(), name
        assert mine["losses"] == theirs["losses"][len(theirs["losses"]) - len(mine["losses"]) :]
        assert mine["rates"] == theirs["rates"][len(theirs["rates"]) - len(mine["rates"]) :]


@pytest.mark.parametrize("trainers, servers, tables", LAYOUTS)
def test_to_the_bit(play: Callable[..., Any], tmp_path: Path, trainers: int, servers: int, tables: bool) -> None:
    layout: dict[str, Any] = {"trainers": trainers, "servers": servers, "tables": tables}
    whole = play("train", **layout)
    stopped = play("train", directory=str(tmp_path), stop_at=8, **layout)  # of 15; the newest checkpoint is of step 6
    assert all(s["steps"] == 8 for s in stopped)
    resumed = play("train", directory=str(tmp_path), seed=99, **layout)
    assert all(r["steps"] == 9 and r["epochs"] == [1, 2] for r in resumed)
    same(resumed, whole)
    assert len(set(whole[0]["losses"])) == 15  # the data and the noise would show a difference
    done = play("train", directory=str(tmp_path), **layout)
    assert all(d["steps"] == 0 and d["epochs"] == [] for d in done)  # a finished job has no epoch left
    same([{**d, "losses": [], "rates": []} for d in done], whole)


def test_on_another_number_of_servers(play: Callable[..., Any], tmp_path: Path) -> None:
    whole = play("train", trainers=2, servers=1)
    play("train", trainers=2, servers=2, directory=str(tmp_path), stop_at=8)
    resumed = {}
    for servers in (1, 3):
        shutil.copytree(tmp_path, tmp_path / f"on-{servers}", ignore=shutil.ignore_patterns("on-*"))
        resumed[servers] = play("train", trainers=2, servers=servers, directory=str(tmp_path / f"on-{servers}"), seed=99)
        same(resumed[servers], whole)


@pytest.mark.parametrize("servers", [0, 2])
def test_on_another_number_of_trainers(play: Callable[..., Any], tmp_path: Path, servers: int) -> None:
    layout: dict[str, Any] = {"servers": servers, "tables": servers > 0, "directory": str(tmp_path), "every_steps": 1}
    play("train", trainers=2, stop_at=4, **layout)
    (alone,) = play("train", trainers=1, stop_at=5, **layout)
    assert alone["steps"] == 5
    both = play("train", trainers=2, **layout)
    assert [b["steps"] for b in both] == [15 - 3 - 4] * 2  # the step in hand is not saved
    for name, value in both[0]["weights"].items():
        assert value.tobytes() == both[1]["weights"][name].tobytes(), name


def test_saved_every_so_many_steps_and_the_newest_kept(play: Callable[..., Any], tmp_path: Path) -> None:
    play("train", tables=False, directory=str(tmp_path), every_steps=2, keep=3)
    # Steps 2 and 4, end of epoch 5, 6, 8, 10 (end), 12, 14, 15 (end).
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000012", "step-00000014", "step-00000015"]


def test_more_epochs_of_a_finished_job(play: Callable[..., Any], tmp_path: Path) -> None:
    whole = play("train", tables=False, epochs=3)
    play("train", tables=False, directory=str(tmp_path), epochs=2)
    more = play("train", tables=False, directory=str(tmp_path), epochs=3, seed=5)
    assert more[0]["epochs"] == [2]
    same(more, whole)


def test_it_says_where_it_resumes(play: Callable[..., Any], checkpoint_pair: Any, tmp_path: Path) -> None:
    play("train", tables=False, directory=str(tmp_path), stop_at=4)
    play("train", tables=False, directory=str(tmp_path))
    assert re.search(rf"resumed at step 3 from {re.escape(str(tmp_path))}/step-00000003", checkpoint_pair.log(0))


def test_the_state_of_strategies(play: Callable[..., Any], tmp_path: Path) -> None:
    """Gradients of a group that was begun, and what a codec with error feedback left out, on each trainer."""
    layout: dict[str, Any] = {"trainers": 2, "tables": False, "rounds": True, "strategies": {"gradient_merge": {"k_steps": 2}}}
    whole = play("train", **layout)
    play("train", directory=str(tmp_path), stop_at=9, every_steps=2, **layout)
    resumed = play("train", directory=str(tmp_path), seed=99, every_steps=2, **layout)
    assert all(0 < r["steps"] < 15 for r in resumed)
    same(resumed, whole)
    (alone,) = play("train", directory=str(tmp_path), epochs=4, **{**layout, "trainers": 1})
    assert alone["epochs"] == [3] and all(np.isfinite(v).all() for v in alone["weights"].values())


def test_the_users_own_objects(play: Callable[..., Any], tmp_path: Path) -> None:
    play("train", tables=False, directory=str(tmp_path), stop_at=8)
    (done,) = play("train", tables=False, directory=str(tmp_path))
    assert done["seen"] == 15 and done["steps"] == 9
    (refused,) = play("train", tables=False, directory=str(tmp_path), fails=True, own="other")
    assert "the checkpoint holds no state of other" in str(refused)


def test_the_best_stays(play: Callable[..., Any], tmp_path: Path) -> None:
    more = {"best": "min", "keep": 1}
    (done,) = play("train", tables=False, directory=str(tmp_path), epochs=4, scores=[3.0, 1.0, float("nan"), 2.0], more=more)
    assert done["best"] == str(tmp_path / "step-00000010")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000020"]


@pytest.mark.parametrize("trainers", [1, 2])
def test_every_so_many_minutes(play: Callable[..., Any], tmp_path: Path, trainers: int) -> None:
    more = {"every_minutes": 1e-9, "keep": 100}
    play("train", trainers=trainers, tables=False, directory=str(tmp_path), epochs=1, every_steps=None, more=more)
    saved = [int(p.name[5:]) for p in sorted(tmp_path.iterdir())]
    assert saved[0] == 1 and saved[-1] == 5 and len(saved) >= 3
    assert trainers > 1 or saved == [1, 2, 3, 4, 5]
