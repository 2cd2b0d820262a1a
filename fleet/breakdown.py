"""Where the time of a step goes, trainer by trainer, and which trainer is the slowest and why: the table of ``fleet.profile``.

Trainers that meet at every step take steps of equal length, however fast each of them is. What tells them apart is their own
work: the step without its waiting. Who works longest waits least, and keeps the others waiting.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import NamedTuple

from fleet.timeline import WAITING, Span
from fleet.trace import Recording, with_forward

COLUMN = {"load": "load", "forward": "compute", "backward": "compute", "encode": "encode", "apply": "apply",
          **{kind: "wait" for kind in WAITING}}  # fmt: skip
COLUMNS = ("load", "compute", "encode", "wait", "apply", "other")
ALIKE = 0.05  # own work that differs by less is called alike: two equal trainers on one busy host differ by 1 to 3 %


class Row(NamedTuple):
    """One trainer: milliseconds a step, the mean over its steps."""

    rank: int
    step_ms: float
    parts_ms: dict[str, float]  # COLUMNS, which add up to step_ms
    sent_ms: float  # beside the script, in other threads: sending and adding up
    last: int  # meetings that it was the last to come to
    kept_ms: float  # a step: how long the others waited for it there

    @property
    def own_ms(self) -> float:
        """The step without its waiting."""
        return self.step_ms - self.parts_ms["wait"]


def rows(recordings: list[Recording]) -> list[Row]:
    """Return one row a trainer that took a step; the recordings are aligned."""
    recordings = [r for r in recordings if r.steps]
    late = _lateness(recordings)
    return [_row(r, *late[r.rank]) for r in recordings]


def _row(recording: Recording, last: int, kept_ns: float) -> Row:
    end = recording.steps[-1][1]
    num_steps, total = len(recording.steps), end - recording.began
    parts = dict.fromkeys(COLUMNS, 0.0)
    sent = 0.0
    spans = [s for s in with_forward(recording) if s.began < end and s.kind != "post"]
    for span, own in _own_times(s for s in spans if s.thread == recording.script):
        parts[COLUMN[span.kind]] += own
    for thread in {s.thread for s in spans} - {recording.script}:
        sent += sum(own for span, own in _own_times(s for s in spans if s.thread == thread) if span.kind in ("send", "encode"))
    parts["other"] = max(0.0, total - sum(parts.values()))
    scale = 1e6 * num_steps
    per_step = {name: value / scale for name, value in parts.items()}
    return Row(recording.rank, total / scale, per_step, sent / scale, last, kept_ns / scale)


def _own_times(spans: Iterable[Span]) -> list[tuple[Span, float]]:
    """Return each span of one thread with its time less that of the spans inside it. They come ordered by begin."""
    found: list[tuple[Span, float]] = []
    within: list[tuple[Span, float]] = []  # the open ones, outermost first, with the time of those inside so far

    def close(until: float) -> None:
        while within and within[-1][0].ended <= until:
            span, inside = within.pop()
            length = span.ended - span.began
            found.append((span, max(0.0, length - inside)))
            if within:
                within[-1] = (within[-1][0], within[-1][1] + length)

    for span in spans:
        close(span.began)
        within.append((span, 0.0))
    close(float("inf"))
    return found


def _lateness(recordings: list[Recording]) -> dict[int, tuple[int, float]]:
    """Return rank -> meetings that it was last at, ns by which it came behind the one before it in all."""
    found = {r.rank: (0, 0.0) for r in recordings}
    if len(recordings) < 2:
        return found
    came = [{s.name: s.began for s in r.spans if s.kind == "meet"} for r in recordings]
    for name in set.intersection(*(set(c) for c in came)):
        order = sorted((c[name], r.rank) for c, r in zip(came, recordings, strict=True))
        (before, _), (at, rank) = order[-2:]
        times, kept = found[rank]
        found[rank] = (times + 1, kept + at - before)
    return found


def table(found: list[Row]) -> str:
    """Return the rows as text, and the verdict under them."""
    lines = [f"{'ms a step':12}{'step':>9}" + "".join(f"{name:>9}" for name in COLUMNS) + f"{'| sent':>9}{'last at':>9}{'for':>9}"]
    for row in found:
        cells = "".join(f"{row.parts_ms[name]:>9.2f}" for name in COLUMNS)
        lines.append(f"trainer {row.rank:<4}{row.step_ms:>9.2f}{cells}{row.sent_ms:>9.2f}{row.last:>9}{row.kept_ms:>9.2f}")
    return "\n".join([*lines, *verdict(found)])


def verdict(found: list[Row]) -> list[str]:
    """Say which trainer is the slowest and why, and what part of a step is spent waiting."""
    if not found:
        return ["no trainer took a step"]
    slowest = max(found, key=lambda row: row.own_ms)
    others = [row for row in found if row is not slowest]
    words = []
    if others:
        own = statistics.fmean(row.own_ms for row in others)
        if slowest.own_ms - own < ALIKE * own:
            words.append(f"no trainer is slower than the others: their own work differs by less than {ALIKE:.0%}")
        else:
            more = {n: slowest.parts_ms[n] - statistics.fmean(row.parts_ms[n] for row in others) for n in COLUMNS if n != "wait"}
            excess = slowest.own_ms - own
            why = [f"{n} +{ms:.2f} ms" for n, ms in sorted(more.items(), key=lambda item: -item[1]) if ms > 0.1 * excess]
            extra = f"{excess:.2f} ms ({excess / own:.0%}) more than the others: {', '.join(why)}"
            words.append(f"slowest: trainer {slowest.rank}: {slowest.own_ms:.2f} ms of its own work a step, {extra}")
    wait = statistics.fmean(row.parts_ms["wait"] for row in found)
    step = statistics.fmean(row.step_ms for row in found)
    least = f"; the slowest itself waits {slowest.parts_ms['wait'] / slowest.step_ms:.0%}: that is communication" if others else ""
    words.append(f"waiting: {wait / step:.0%} of a step{least}")
    return words
