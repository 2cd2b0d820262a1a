"""R17: one call at a time until members prove short; a long one never holds up others that a free worker could take."""

from __future__ import annotations

import time

import fleet


def test_a_long_member_does_not_block_its_neighbours() -> None:
    def member(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    begin = time.monotonic()
    order = [r.index for r in fleet.spread([1.5, 0.0, 0.0, 0.0, 0.0], workers=2).map(member).as_completed()]
    assert order[-1] == 0 and time.monotonic() - begin < 20


def test_short_members_travel_together_and_none_is_lost_or_doubled() -> None:
    results = fleet.spread(range(3000), workers=2).map(lambda x: x).gather(errors="collect")
    assert [r.value for r in results] == list(range(3000)) and all(r.attempts == 1 for r in results)
