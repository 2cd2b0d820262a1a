"""fleet.profile: one trace of all trainers that is valid, and a table that names the slow one; whatever the mode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NEEDS = {"X": {"ts", "dur", "cat"}, "M": {"args"}, "s": {"ts", "id"}, "t": {"ts", "id"}, "f": {"ts", "id", "bp"}}


def checked(path: Path) -> list[dict[str, Any]]:
    """Return a trace's events, checked against the Trace Event Format."""
    trace = json.loads(path.read_text())
    for event in trace["traceEvents"]:
        assert {"ph", "name", "pid", "tid"} | NEEDS[event["ph"]] <= set(event), event
        assert event.get("ts", 0) >= 0 and event.get("dur", 0) >= 0
    slices = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    for lane in {(e["pid"], e["tid"]) for e in slices}:  # a lane's slices are nested or apart, never crossing
        open_: list[float] = []
        mine = sorted((e for e in slices if (e["pid"], e["tid"]) == lane), key=lambda e: (e["ts"], -e["dur"]))
        for event in mine:
            end = event["ts"] + event["dur"]
            while open_ and open_[-1] <= event["ts"] + 0.002:  # times are rounded to ns
                open_.pop()
            assert not open_ or end <= open_[-1] + 0.002, event
            open_.append(end)
    named = {(e["pid"], e["tid"]) for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in slices} <= named
    events: list[dict[str, Any]] = trace["traceEvents"]
    return events


def kinds(events: list[dict[str, Any]], pid: int) -> set[str]:
    return {e["cat"] for e in events if e["ph"] == "X" and e["pid"] == pid}


def steps(events: list[dict[str, Any]], pid: int) -> list[str]:
    return [e["name"] for e in events if e.get("cat") == "step" and e["pid"] == pid]


EVERYWHERE = {"step", "load", "forward", "backward", "apply"}


def test_two_trainers(play: Callable[..., Any], tmp_path: Path) -> None:
    out, other = play("profiled", path=str(tmp_path / "trace.json"), slow=1)
    assert other == "" and "profile of steps 2 to 4\n" in out and str(tmp_path / "trace.json") in out
    assert "slowest: trainer 1" in out and "compute +2" in out  # 20 ms asleep before its forward pass
    events = checked(tmp_path / "trace.json")
    for rank in range(2):
        assert kinds(events, rank) >= EVERYWHERE | {"encode", "meet", "send", "wait"}
        assert steps(events, rank) == ["step 2", "step 3", "step 4"]
    arrows = [e for e in events if e["ph"] in "stf"]
    assert len(arrows) == 3 * 3 * 2  # a bucket a step and trainer
    for number in {e["id"] for e in arrows}:
        post, went, back = (next(e for e in arrows if e["id"] == number and e["ph"] == ph) for ph in "stf")
        assert post["ts"] <= went["ts"] <= back["ts"] and post["tid"] == back["tid"] == 0 != went["tid"]
    # The second one began where it was called, and its name was given.
    assert "profile of steps 5 to 6" in out and steps(checked(tmp_path / "trace.json2"), 0) == ["step 5", "step 6"]


def test_one_trainer_alone(play: Callable[..., Any], tmp_path: Path) -> None:
    (out,) = play("profiled", trainers=1, path=str(tmp_path / "trace.json"))
    assert "profile of steps 2 to 4" in out and "slowest" not in out
    events = checked(tmp_path / "trace.json")
    assert kinds(events, 0) == EVERYWHERE


@pytest.mark.parametrize("mode", ["sync", "bounded"])
def test_servers_are_waited_for(play: Callable[..., Any], tmp_path: Path, mode: str) -> None:
    out, _ = play("profiled", servers=1, mode=mode, path=str(tmp_path / "trace.json"))
    events = checked(tmp_path / "trace.json")
    for rank in range(2):
        here = EVERYWHERE if mode == "sync" else EVERYWHERE - {"apply"}  # bounded: the servers move the dense parameters too
        assert kinds(events, rank) >= here | {"encode", "send", "wait"}
        assert {e["name"] for e in events if e["pid"] == rank and e.get("cat") == "send"} >= {"pull", "push"}
    assert "trainer 1" in out


def test_a_job_that_ends_before_its_steps(play: Callable[..., Any], tmp_path: Path) -> None:
    """Eight steps are taken, one is left out: what there is of the 100 is written as the job ends."""
    out, _ = play("profiled", path=str(tmp_path / "trace.json"), steps=100)
    assert "profile of steps 2 to 8" in out
    assert steps(checked(tmp_path / "trace.json"), 1)[-1] == "step 8"


def test_a_directory_that_is_not_there(play: Callable[..., Any], tmp_path: Path) -> None:
    out, _ = play("profiled", path=str(tmp_path / "nowhere" / "trace.json"), steps=3)
    assert "no trace: [Errno 2]" in out and "ms a step" in out  # the table comes all the same, and the training goes on
