"""timeline: what the script's thread waits for is summed up always, and once; the rest is kept only while somebody profiles."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from fleet import timeline


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    timeline.follow_this_thread()
    yield
    timeline.stop()


def waited_by(kind: str, seconds: float = 0.02) -> float:
    before, began = timeline.waited_s(), timeline.now()
    time.sleep(seconds)
    timeline.mark(kind, "x", began)
    return timeline.waited_s() - before


@pytest.mark.parametrize("kind", ["meet", "send", "wait"])
def test_communication_counts(kind: str) -> None:
    assert waited_by(kind) >= 0.02


@pytest.mark.parametrize("kind", ["load", "backward", "encode", "apply", "post"])
def test_own_work_does_not(kind: str) -> None:
    assert waited_by(kind) == 0


def test_another_thread_does_not() -> None:
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(waited_by("send")))
    thread.start()
    thread.join()
    assert found == [0]


def test_a_wait_inside_a_wait() -> None:
    before, began = timeline.waited_s(), timeline.now()
    waited_by("wait")
    timeline.mark("send", "outer", began)
    whole = (timeline.now() - began) / 1e9
    assert 0.02 <= timeline.waited_s() - before <= whole


def test_marks_are_kept_from_record_to_stop() -> None:
    waited_by("wait", 0)
    timeline.record()
    assert timeline.is_recording()
    waited_by("backward", 0)
    waited_by("wait", 0)
    spans = timeline.stop()
    assert [s.kind for s in spans] == ["backward", "wait"] and not timeline.is_recording()
    assert all(s.began <= s.ended and s.thread == timeline.script() for s in spans)
    assert timeline.stop() == []
