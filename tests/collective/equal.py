"""What the tests of this room compare."""

from __future__ import annotations

from typing import Any

import numpy as np

# float32 sums of a batch in another order: each addition rounds by up to 6e-8 of the largest term.
REORDERED = 2e-6


def bitwise(results: list[list[Any]]) -> None:
    """All trainers hold the same bits."""
    for other in results[1:]:
        assert len(other) == len(results[0])
        for mine, theirs in zip(results[0], other, strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or np.array_equal(mine, theirs)


def close(got: list[Any], expected: list[Any], tolerance: float = REORDERED) -> None:
    """Each array differs by at most ``tolerance`` of its largest value; None only where None is expected."""
    assert len(got) == len(expected)
    for k, (mine, theirs) in enumerate(zip(got, expected, strict=True)):
        assert (mine is None) == (theirs is None), f"array {k}: {mine} for {theirs}"
        if mine is not None:
            assert np.abs(mine - theirs).max() <= tolerance * max(np.abs(theirs).max(), 1e-3), f"array {k}"


def reduced_equals_alone(results: list[dict[str, Any]]) -> None:
    """Every trainer's gradients are the mean of those that the trainers compute alone, bitwise the same on each."""
    bitwise([r["got"] for r in results])
    close(results[0]["got"], results[0]["expected"])
