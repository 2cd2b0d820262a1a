"""Gradients of 16 and 64 bits, and of rows (``sparse=True``): the mean over the trainers, the same bits on each."""

from __future__ import annotations

import equal
import pytest
from trainers import Trainers

# The exact mean lies between two values of a 16-bit dtype.
ROUNDED = {"float16": 1e-3, "bfloat16": 8e-3, "float64": 1e-12}


@pytest.mark.parametrize("dtype", list(ROUNDED))
def test_other_dtypes(either: Trainers, dtype: str) -> None:
    results = either.run("collective.jobs:of_dtype", dtype=dtype)
    equal.bitwise([r["got"] for r in results])
    equal.close(results[0]["got"], results[0]["expected"], ROUNDED[dtype])


@pytest.mark.parametrize("ids", [[[1, 3, 3], [3, 9]], [[1, 2], []], [[], []]], ids=["shared ids", "one trainer", "nobody"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_rows(either: Trainers, ids: list[list[int]], accumulate: bool) -> None:
    results = either.run("collective.jobs:looked_up", ids=ids, accumulate=accumulate)
    equal.reduced_equals_alone(results)
    assert all(r["rows"] == any(ids) for r in results)
