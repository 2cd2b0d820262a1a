"""What the trainers marked, on one clock: as a Chrome trace that Perfetto opens, and for the table of ``breakdown.py``.

Clocks: a meeting ends for nobody before everybody has come to it. So trainer r's clock minus trainer 0's lies, for each meeting,
between (r came - 0 left) and (r left - 0 came). All meetings together leave a small interval; its middle is taken, half of its
width is the error. An interval that holds zero is that of one clock: trainers of one node share theirs.

Format: "Trace Event Format" (Google, the document that chrome://tracing links to).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fleet.timeline import Span

LANES = {"fleet-reducer": "sends gradients", "fleet-client": "speaks with servers"}


class Recording(NamedTuple):
    """What one trainer recorded, by its own clock (ns)."""

    rank: int
    began: int  # of the first step
    steps: list[tuple[int, int]]  # number, end
    spans: list[Span]
    script: int  # the thread that runs the script
    threads: dict[int, str]  # their names
    meetings: list[tuple[str, int, int]]  # of the clocks: name, came, left


def align(recordings: list[Recording]) -> tuple[list[Recording], list[float | None]]:
    """Return the recordings on trainer 0's clock, and each one's error in seconds; None if no meeting tells."""
    first = _meetings(recordings[0])
    moved, errors = [], list[float | None]()
    for recording in recordings:
        low, high = _difference(_meetings(recording), first)
        if recording is recordings[0] or -float("inf") < low <= 0 <= high:
            moved.append(recording)
            errors.append(0.0)
        elif low > high or high == float("inf"):  # a clock that jumped, or no meeting at all
            moved.append(recording)
            errors.append(None)
        else:
            moved.append(_shifted(recording, int(low + high) // 2))
            errors.append((high - low) / 2e9)
    return moved, errors


def _meetings(recording: Recording) -> dict[str, tuple[int, int]]:
    found = {name: (came, left) for name, came, left in recording.meetings}
    found.update({s.name: (s.began, s.ended) for s in recording.spans if s.kind == "meet"})
    return found


def _difference(mine: dict[str, tuple[int, int]], first: dict[str, tuple[int, int]]) -> tuple[float, float]:
    both = [(mine[name], first[name]) for name in mine if name in first]
    low = max((float(came - left) for (came, _), (_, left) in both), default=float("-inf"))
    high = min((float(left - came) for (_, left), (came, _) in both), default=float("inf"))
    return low, high


def _shifted(recording: Recording, by: int) -> Recording:
    return recording._replace(
        began=recording.began - by,
        steps=[(number, end - by) for number, end in recording.steps],
        spans=[s._replace(began=s.began - by, ended=s.ended - by) for s in recording.spans],
        meetings=[(name, came - by, left - by) for name, came, left in recording.meetings],
    )


def with_forward(recording: Recording) -> list[Span]:
    """Return the spans, and what stands in front of each backward pass on the script's thread as forward ones.

    Forward is nobody's call: it is what the script does between a batch (or the step before) and ``backward()``.
    """
    inside = (s for s in recording.spans if s.ended > recording.began)  # other threads were at work before
    clipped = [s._replace(began=max(s.began, recording.began)) for s in inside]
    found = sorted(clipped, key=lambda s: (s.began, -s.ended))
    begin, forward = recording.began, []
    for span in found:
        if span.thread != recording.script or span.kind not in ("load", "backward", "apply"):
            continue
        if span.kind == "backward" and span.began > begin:
            forward.append(Span("forward", "forward", begin, span.began, recording.script))
        begin = max(begin, span.ended)
    return sorted([*found, *forward], key=lambda s: (s.began, -s.ended))


def chrome(recordings: list[Recording], errors: list[float | None]) -> dict[str, Any]:
    """Return the trace of aligned recordings: one process a trainer, one lane a thread, an arrow along each bucket's way."""
    zero = min(recording.began for recording in recordings)
    events: list[dict[str, Any]] = []
    for recording in recordings:
        lanes = _lanes(recording)
        events += _names(recording, lanes)
        begin = recording.began
        for number, end in recording.steps:
            events.append(_event(Span("step", f"step {number}", begin, end, recording.script), recording.rank, lanes, zero))
            begin = end
        spans = with_forward(recording)
        events += [_event(s, recording.rank, lanes, zero) for s in spans if s.kind != "post"]
        events += _arrows(recording, spans, lanes, zero)
    said = {f"trainer {r.rank}": "unknown" if e is None else f"{e * 1e3:.3f} ms" for r, e in zip(recordings, errors, strict=True)}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"error of the clock": said}}


def _lanes(recording: Recording) -> dict[int, int]:
    """Return thread -> lane: the script's is 0."""
    others = sorted({s.thread for s in recording.spans} - {recording.script}, key=lambda t: recording.threads.get(t, ""))
    return {thread: lane for lane, thread in enumerate([recording.script, *others])}


def _names(recording: Recording, lanes: dict[int, int]) -> list[dict[str, Any]]:
    def meta(kind: str, tid: int, **args: Any) -> dict[str, Any]:
        return {"ph": "M", "name": kind, "pid": recording.rank, "tid": tid, "args": args}

    found = [meta("process_name", 0, name=f"trainer {recording.rank}"), meta("process_sort_index", 0, sort_index=recording.rank)]
    for thread, lane in lanes.items():
        own = recording.threads.get(thread, f"thread {thread}")
        found.append(meta("thread_name", lane, name="script" if lane == 0 else LANES.get(own, own)))
        found.append(meta("thread_sort_index", lane, sort_index=lane))
    return found


def _event(span: Span, rank: int, lanes: dict[int, int], zero: int) -> dict[str, Any]:
    name = {"meet": f"wait for trainers: {span.name}", "wait": f"wait for {span.name}", "load": f"load {span.name}"}
    began, ended = (span.began - zero) / 1e3, (span.ended - zero) / 1e3
    return {"ph": "X", "name": name.get(span.kind, span.name), "cat": span.kind, "ts": round(began, 3),
            "dur": round(ended - began, 3), "pid": rank, "tid": lanes[span.thread]}  # fmt: skip


def _arrows(recording: Recording, spans: list[Span], lanes: dict[int, int], zero: int) -> list[dict[str, Any]]:
    """Return an arrow for each bucket: where it was given to the sender, where it went, where the script had waited for it."""
    went = {s.name: s for s in spans if s.kind == "meet" and s.thread != recording.script}
    waits = [s for s in spans if s.kind == "wait" and s.name == "gradients" and s.thread == recording.script]
    found = []
    for number, (post, wait) in enumerate(zip((s for s in spans if s.kind == "post"), waits, strict=False)):
        if post.name not in went:
            continue
        common = {"name": "bucket", "cat": "bucket", "id": (recording.rank << 32) + number, "pid": recording.rank}
        on = [("s", post.began, post.thread), ("t", went[post.name].began, went[post.name].thread), ("f", wait.ended, wait.thread)]
        for ph, at, thread in on:
            end = {"bp": "e"} if ph == "f" else {}
            found.append({"ph": ph, "ts": round((at - zero) / 1e3, 3), "tid": lanes[thread], **common, **end})
    return found
