"""trace.align: meetings tell how clocks differ, within the error that is stated; one clock is recognised."""

from __future__ import annotations

import random

import pytest

from fleet.timeline import Span
from fleet.trace import Recording, align

US = 1000


def recordings(offset_ns: int, num_meetings: int = 30, seed: int = 0, clocks_only: bool = False) -> list[Recording]:
    """Two trainers that came to meetings at random, each one's times by its own clock."""
    rng = random.Random(seed)
    notes: list[list[tuple[str, int, int]]] = [[], []]
    at = 10**12
    for number in range(num_meetings):
        at += 10_000 * US
        came = [at + rng.randrange(2000) * US for _ in range(2)]
        over = max(came)
        for rank in range(2):
            left = over + (20 + rng.randrange(80)) * US  # the answer's way
            shift = offset_ns * rank
            notes[rank].append((f"meeting {number}", came[rank] + shift, left + shift))
    made = []
    for rank in range(2):
        spans = [] if clocks_only else [Span("meet", name, came, left, 1) for name, came, left in notes[rank]]
        begin = 10**12 + offset_ns * rank
        made.append(Recording(rank, begin, [(1, begin + 10**9)], spans, 1, {1: "MainThread"}, notes[rank] if clocks_only else []))
    return made


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("clocks_only", [False, True])
@pytest.mark.parametrize("offset_ns", [3_600 * 10**9, -(10**15), 2 * 10**6])
def test_clocks_that_differ(offset_ns: int, clocks_only: bool, seed: int) -> None:
    found, (zero, error) = align(recordings(offset_ns, seed=seed, clocks_only=clocks_only))
    assert zero == 0 and error is not None and 0 < error < 100e-6
    off_by = abs(found[1].began - found[0].began)
    assert off_by <= error * 1e9 + 1  # the truth lies within what is stated
    assert found[1].steps[0][1] - found[1].began == 10**9


def test_one_clock_is_left_alone() -> None:
    given = recordings(0)
    found, errors = align(given)
    assert found == given and errors == [0, 0]


def test_trainers_that_never_met() -> None:
    given = recordings(10**9, num_meetings=0)
    found, errors = align(given)
    assert found == given and errors == [0, None]


def test_clocks_that_jumped() -> None:
    """No offset explains all meetings: nothing is claimed."""
    first, second = recordings(10**9)
    moved = [s._replace(began=s.began + 10**9, ended=s.ended + 10**9) if i > 15 else s for i, s in enumerate(second.spans)]
    assert align([first, second._replace(spans=moved)])[1] == [0, None]
