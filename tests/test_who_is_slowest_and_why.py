"""breakdown: parts add up to the step, nested marks count once, and the verdict names the trainer that keeps the others waiting."""

from __future__ import annotations

from fleet.breakdown import COLUMNS, rows, table
from fleet.timeline import Span
from fleet.trace import Recording, chrome, with_forward

MS = 10**6
SCRIPT, SENDER = 7, 8


def recording(rank: int, forward_ms: int, load_ms: int = 1, steps: int = 4, length_ms: int = 20) -> Recording:
    """Steps of equal length: load, forward, 5 ms of backward with 1 ms of encoding, a wait until all is there, 1 ms of apply."""
    spans, ends = [], []
    for step in range(steps):
        at = step * length_ms * MS

        def span(kind: str, name: str, begin: float, end: float, thread: int = SCRIPT, at: int = at) -> Span:
            return Span(kind, name, at + int(begin * MS), at + int(end * MS), thread)

        ready = load_ms + forward_ms + 5
        name = f"step {step}, bucket 0"
        spans += [
            span("load", "next batch", 0, load_ms),
            span("encode", "w", ready - 2, ready - 1),
            span("post", name, ready - 1, ready - 1),
            span("meet", name, ready - 1, 17, SENDER),
            span("send", name, 17, 17.5, SENDER),
            span("wait", "gradients", ready, 18),
            span("backward", "backward", ready - 5, 18),
            span("apply", "optimizer", 18, 19),
        ]
        ends.append((step + 1, at + length_ms * MS))
    return Recording(rank, 0, ends, spans, SCRIPT, {SCRIPT: "MainThread", SENDER: "fleet-reducer"}, [])


def test_the_parts_of_a_step() -> None:
    (row,) = rows([recording(0, forward_ms=3)])
    assert row.step_ms == 20
    assert row.parts_ms == {"load": 1, "compute": 3 + 4, "encode": 1, "wait": 9, "apply": 1, "other": 1}
    assert tuple(row.parts_ms) == COLUMNS and sum(row.parts_ms.values()) == row.step_ms
    assert row.own_ms == 11 and row.sent_ms == 0.5


def test_the_slowest_is_named_with_its_reason() -> None:
    found = rows([recording(0, 3), recording(1, 9), recording(2, 3)])
    assert [r.last for r in found] == [0, 4, 0] and found[1].kept_ms == 6
    text = table(found)
    assert "slowest: trainer 1: 17.00 ms of its own work a step, 6.00 ms (55%) more than the others: compute +6.00 ms" in text
    assert "waiting: 35% of a step; the slowest itself waits 15%" in text


def test_a_slow_loader_is_not_a_slow_model() -> None:
    text = table(rows([recording(0, 3, load_ms=5), recording(1, 3)]))
    assert "slowest: trainer 0" in text and "load +4.00 ms" in text and "compute +" not in text


def test_equal_trainers() -> None:
    assert "no trainer is slower than the others" in table(rows([recording(0, 3), recording(1, 3)]))


def test_one_trainer_alone_is_compared_with_nobody() -> None:
    text = table(rows([recording(0, 3)]))
    assert "slow" not in text and "waiting: 45% of a step" in text
    assert len(text.splitlines()) == 3


def test_a_trainer_without_a_step() -> None:
    assert [r.rank for r in rows([recording(0, 3), recording(1, 3, steps=0)])] == [0]
    assert "no trainer took a step" in table(rows([recording(1, 3, steps=0)]))


def test_forward_stands_before_each_backward() -> None:
    """Two micro-steps: two forwards; none where backward follows at once."""
    times = [("backward", 3, 5), ("load", 5, 6), ("backward", 8, 9), ("backward", 9, 12)]
    spans = [Span(kind, kind, began, ended, 1) for kind, began, ended in times]
    made = with_forward(Recording(0, 0, [(1, 12)], spans, 1, {}, []))
    assert [(s.began, s.ended) for s in made if s.kind == "forward"] == [(0, 3), (6, 8)]


def test_what_began_before_the_recording_is_cut() -> None:
    given = recording(0, 3)
    early = [Span("send", "push", -5 * MS, 2 * MS, SENDER), Span("send", "push", -5 * MS, -MS, SENDER)]
    given = given._replace(spans=[*early, *given.spans])
    assert rows([given])[0].sent_ms == 0.5 + 2 / 4
    assert min(e["ts"] for e in chrome([given], [0.0])["traceEvents"] if "ts" in e) == 0


def test_the_trace_has_an_arrow_for_each_bucket() -> None:
    trace = chrome([recording(0, 3), recording(1, 9)], [0.0, 0.0002])
    arrows = [e for e in trace["traceEvents"] if e["ph"] in "stf"]
    assert [e["ph"] for e in arrows[:3]] == ["s", "t", "f"] and len(arrows) == 3 * 4 * 2
    assert len({e["id"] for e in arrows}) == 8 and arrows[2]["bp"] == "e"
    assert trace["otherData"]["error of the clock"] == {"trainer 0": "0.000 ms", "trainer 1": "0.200 ms"}
