"""How trainer 0 shows where the job is: one line redrawn on a terminal (tqdm's), a line now and then in a file.

The redrawn line stays one line: it is cut at the terminal's width, and what the script prints meanwhile appears above it.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TextIO

from fleet import env

REDRAW_S = 0.25
PRINT_S = 5.0
BAR, SHORTEST_BAR = 24, 3  # characters: a plain line's; what the redrawn line's keeps when words are left out for it
NO_WRAP, WRAP, TO_END = "\x1b[?7l", "\x1b[?7h", "\x1b[K"  # a line longer than the window would leave its rest behind


class State(NamedTuple):
    """Where the job is."""

    step: int
    epoch: int  # from 0
    num_epochs: int  # 0: nobody says
    batch: int  # done of the epoch
    batches: int  # of an epoch; 0: nobody says
    values: dict[str, float]  # the script's numbers
    steps_per_s: float
    examples_per_s: float  # 0: nobody counts examples
    waiting: float  # part of a step that a trainer waits for communication, mean over trainers
    left_s: float | None  # to the end of the last epoch, or of this one

    def words(self, shorter: int = 0) -> list[str]:
        """Return the numbers as text; 1 shorter: without step/s if examples/s say the same; 2: without the waiting."""
        parts = [f"{name} {value:.4g}" for name, value in self.values.items()]
        if self.steps_per_s > 0:
            if not (shorter and self.examples_per_s > 0):
                parts.append(f"{self.steps_per_s:.1f} step/s" if self.steps_per_s < 100 else f"{self.steps_per_s:,.0f} step/s")
            if self.examples_per_s > 0:
                parts.append(f"{self.examples_per_s:,.0f} examples/s")
            if shorter < 2:
                parts.append(f"waiting {self.waiting:.0%}")
        if self.left_s is not None:
            parts.append(f"ETA {_clock(self.left_s)}")
        return parts

    def epoch_words(self) -> str:
        """Return ``epoch 2/3``."""
        return f"epoch {self.epoch + 1}{f'/{self.num_epochs}' if self.num_epochs else ''}"


class Lines:
    """Prints plain lines, for a file."""

    interval_s = PRINT_S

    def show(self, state: State) -> None:
        """Show a state."""
        place = f"step {state.step}"
        if state.batches:
            filled = round(BAR * min(1.0, state.batch / state.batches))
            bar = "#" * filled + "." * (BAR - filled)
            place = f"{state.epoch_words()}  step {state.batch}/{state.batches} [{bar}]"
        _write(sys.stdout, "  ".join([place, *state.words()]) + "\n")

    def say(self, text: str) -> None:
        """Show a text."""
        _write(sys.stdout, text + "\n")

    def end(self) -> None:
        """Show no more."""


class Redrawn:
    """Redraws one line on a terminal.

    Args:
        meter: ``tqdm.tqdm.format_meter``. Only its drawing is used: no thread, no lock, and no guess at what other bars are there.
        width: asked at each drawing.
    """

    interval_s = REDRAW_S

    def __init__(self, meter: Callable[..., str], width: Callable[[], int]) -> None:
        self._meter, self._width = meter, width
        self._guard = threading.RLock()  # guards the line: the script prints in its thread, the states come in another
        self._line = ""
        self._free = True  # the cursor stands at a line's begin, or in our line
        self._streams = [(name, Above(getattr(sys, name), self)) for name in ("stdout", "stderr")]
        self._out: TextIO = self._streams[0][1].stream
        for name, stream in self._streams:
            setattr(sys, name, stream)

    def show(self, state: State) -> None:
        """Show a state in place of the one before."""
        plain = "utf" not in (self._out.encoding or "").lower()
        width = self._width() - 1
        room = width - len(f"{state.epoch_words()}  {state.batch}/{state.batches} || ") - SHORTEST_BAR
        words = next((w for w in map("  ".join, map(state.words, (0, 1))) if len(w) <= room), "  ".join(state.words(2)))
        if state.batches:
            line = self._meter(state.batch, state.batches, 0, ncols=width, prefix=state.epoch_words(), ascii=plain,
                               bar_format="{desc}  {n_fmt}/{total_fmt} |{bar}| {words}", words=words)  # fmt: skip
        else:
            line = f"step {state.step}  {words}"
        with self._guard:
            if self._free:
                self._line = line
                _write(self._out, f"\r{NO_WRAP}{line}{TO_END}{WRAP}")

    def say(self, text: str) -> None:
        """Show a text above the line."""
        print(text, flush=True)

    def above(self, stream: TextIO, text: str) -> int:
        """Write what somebody else prints: in place of the line, which comes back below it, once that ends in a newline."""
        with self._guard:
            if self._line:
                _write(self._out, f"\r{TO_END}")
                self._line = ""
            self._free = text.endswith("\n") if text else self._free
            return stream.write(text)

    def end(self) -> None:
        """Leave the last state standing, and give the streams back."""
        with self._guard:
            if self._line:
                _write(self._out, "\n")
                self._line = ""
        for name, stream in self._streams:
            if getattr(sys, name) is stream:
                setattr(sys, name, stream.stream)


class Above:
    """A text stream whose text appears above the redrawn line. Everything but ``write`` is the stream's own."""

    def __init__(self, stream: TextIO, display: Redrawn) -> None:
        self.stream, self._display = stream, display

    def write(self, text: str) -> int:
        """Write text."""
        return self._display.above(self.stream, text)

    def writelines(self, lines: list[str]) -> None:
        """Write texts."""
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def choose() -> Lines | Redrawn:
    """Return the display for where standard output goes: a terminal (of the launcher's too), or a file.

    Without tqdm a terminal gets plain lines as well.
    """
    columns = env.get("FLEET_PROGRESS")
    if columns == "0" or (not columns and not sys.stdout.isatty()):
        return Lines()
    try:
        from tqdm import tqdm
    except ImportError:
        return Lines()
    given = int(columns) if columns.isdigit() else 0
    return Redrawn(tqdm.format_meter, lambda: given or shutil.get_terminal_size().columns)


def _write(stream: TextIO, text: str) -> None:
    # A closed pipe or a full disk must not end the control thread, in which this runs: the job goes on without its line.
    with contextlib.suppress(OSError):
        stream.write(text)
        stream.flush()


def _clock(seconds: float) -> str:
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    return f"{hours}:{minutes % 60:02d}:{int(seconds) % 60:02d}" if hours else f"{minutes}:{int(seconds) % 60:02d}"
