"""Each test of the core begins and ends with the SIMD level that the CPU offers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from core_oracle import core


@pytest.fixture(autouse=True)
def _best_simd_level() -> Iterator[None]:
    core.set_simd("auto")
    yield
    core.set_simd("auto")
