"""What is done about lines that are no samples: counted, the first ones shown, too many refused."""

from __future__ import annotations

from fleet.data.block import NUM_SHOWN, Block
from fleet.errors import ConfigError
from fleet.logger import warning

MAX_BAD_LINES = 100


class LineCount:
    """Count lines and bad lines of a reading; show the first bad ones; stop beyond ``max_bad_lines``.

    ``form`` says what a line should look like, for who has to mend it; ``quiet`` counts only: they were shown before.
    """

    def __init__(self, max_bad_lines: int, form: str, quiet: bool = False) -> None:
        self.max_bad_lines, self.form, self.quiet = max_bad_lines, form, quiet
        self.num_lines, self.num_bad, self.num_samples = 0, 0, 0
        self._path, self._lines_before = "", 0
        self._first = ("", "")  # place and fault of the first bad line

    def add(self, path: str, block: Block, first_line: int | None = None) -> None:
        """Count a block that begins at line ``first_line`` of its file, from 0; without it, blocks of one file come in order.

        Raises:
            ConfigError: there are more bad lines than ``max_bad_lines``.
        """
        if path != self._path:
            self._path, self._lines_before = path, 0
        if first_line is not None:
            self._lines_before = first_line
        for i, bad in enumerate(block.bad):
            place = f"{path}:{self._lines_before + bad.line + 1}"
            fault = f"{bad.reason}: {bad.text}"
            self._first = self._first if self._first[0] else (place, fault)
            if self.num_bad + i < NUM_SHOWN and not self.quiet:
                warning(f"{place}: left out, {fault}")
        self._lines_before += block.num_lines
        self.num_lines += block.num_lines
        self.num_bad += block.num_bad
        self.num_samples += block.num_samples
        if self.num_bad > self.max_bad_lines:
            raise ConfigError(
                f"{self.num_bad} of the first {self.num_lines} lines are not samples, more than "
                f"max_bad_lines={self.max_bad_lines}; the first one: {self._first[1]}",
                at=self._first[0],
                fix=f"check that this is {self.form}; raise max_bad_lines if the lines may be left out",
            )

    def finish(self, path: str) -> None:
        """End the reading: say how many lines were left out.

        Raises:
            ConfigError: there was not one sample.
        """
        if not self.num_samples:
            what = f"there is not one sample in {self.num_lines} lines"
            raise ConfigError(what, at=path, fix="check the files: they hold no data")
        if self.num_bad and not self.quiet:
            share = f"{self.num_bad} of {self.num_lines} lines"
            warning(f"left out {share}, which are not samples (max_bad_lines={self.max_bad_lines})")
