"""fleet.log under trainers that log alike, more often, seldom or never."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize("how", ["alike", "more often", "seldom", "never"])
def test_the_progress_line(play: Callable[..., Any], how: str) -> None:
    """Means over both trainers weighted by their samples, joined by step; who logs at other times holds up nobody."""
    (out, kept), (other, _) = play("logged", how=how)
    assert other == ""
    lines = [line for line in out.splitlines() if "loss" in line]
    if how in ("alike", "more often"):  # the last batch's parts hold one and two samples
        shown = [line.split("loss ")[1].split()[0] for line in lines]
        assert shown[-1] == "13.67" and kept == 1
        assert how != "alike" or shown[:4] == ["0.5", "1.5", "2.5", "3.667"]
        assert "examples/s" in lines[-1] and "step 4/4" in lines[-1]
    elif how == "seldom":  # only the steps that both logged are shown
        assert "loss 13.67" in lines[-1] and not any("loss 2.5" in line for line in lines)
    else:
        assert lines == [] and kept == 8
