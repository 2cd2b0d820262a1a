"""One line about a run: done, failed, running, rate, time left. On a terminal it is redrawn; elsewhere printed now and then."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleet.fanout.flow import Flow

EVERY_S = 0.2


class Progress:
    """The line. ``every_s``: how often it wants to be drawn, None if never."""

    def __init__(self, asked: bool | str, name: str, num_items: int | None) -> None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        shown = terminal if asked == "auto" else bool(asked)
        self.every_s = EVERY_S if shown else None
        self._redraws, self._name, self._num_items = terminal, name or "spread", num_items
        self._begin = self._last = time.monotonic()
        self._drawn = False

    def show(self, flows: list[Flow], running: int) -> None:
        """Draw it, if it is time."""
        if self.every_s is None or time.monotonic() - self._last < (self.every_s if self._redraws else 5.0):
            return
        self._last = time.monotonic()
        self._draw(self._text(flows, running), end="" if self._redraws else "\n")

    def _text(self, flows: list[Flow], running: int) -> str:
        done, failed, cached = (sum(flow.counts[name] for flow in flows) for name in ("done", "failed", "cached"))
        seconds = time.monotonic() - self._begin
        rate = (done + failed - cached) / seconds if seconds else 0.0
        whole = f"/{self._num_items}" if self._num_items is not None else ""
        text = f"{self._name}: {done}{whole} done"
        text += f", {failed} failed" if failed else ""
        text += f", {cached} cached" if cached else ""
        text += f", {running} running, {rate:.1f}/s"
        left = None if self._num_items is None or not rate else (self._num_items - done - failed) / rate
        return text + (f", {left:.0f} s left" if left and left >= 1 else "")

    def say(self, text: str) -> None:
        """Print a line of its own, whatever was asked for."""
        self._draw(f"{self._name}: {text}", end="\n")

    def _draw(self, text: str, end: str) -> None:
        if sys.stderr is None:
            return
        start = "\r\x1b[K" if self._redraws and (self._drawn or end == "") else ""
        sys.stderr.write(f"{start}{text}{end}")
        sys.stderr.flush()
        self._drawn = end == ""

    def close(self, flows: list[Flow]) -> None:
        """Draw it for the last time."""
        if self.every_s is not None:
            self._draw(self._text(flows, 0) + f", {time.monotonic() - self._begin:.1f} s", end="\n")
            self.every_s = None
