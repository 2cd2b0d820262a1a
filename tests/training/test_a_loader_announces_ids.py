"""ids= by key, by index, by a function, before the optimizer or not at all: the same rows to the bit, and they were announced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_every_form(play: Callable[..., Any]) -> None:
    plain = [rows for rows, _ in play("announced", servers=1, how="not at all")]
    for how in ("key", "function", "before the optimizer"):
        for (rows, used), expected in zip(play("announced", servers=1, how=how), plain, strict=True):
            assert rows.tobytes() == expected.tobytes()
            assert used == 6, how  # of 6 steps
    assert [used for _, used in play("announced", servers=1, how="index")] == [6, 6]


def test_an_evaluation_counts_each_sample_once(play: Callable[..., Any]) -> None:
    alone = play("evaluated", trainers=1)
    both = play("evaluated", servers=2)
    assert alone[0][0] == 21 and sum(b[0] for b in both) == 21
    for found in both:
        assert [round(v, 12) for v in found[1:4]] == [round(v, 12) for v in alone[0][1:4]]
        assert found[1] not in (0.0, 0.5, 1.0)
