"""Sentences in two languages: the files of WMT, as pairs of lines."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fleet.data.source import is_zipped, reading
from fleet.errors import ConfigError
from fleet.logger import info

Path = str | os.PathLike[str]


class ParallelText(NamedTuple):
    """Sentences and their translations, line by line.

    Example:
        >>> train = ParallelText.pair("europarl-v7.de-en.de", "europarl-v7.de-en.en")
        >>> test = ParallelText.tsv("newstest.tsv.gz")
    """

    source: list[str]
    target: list[str]

    @property
    def num_samples(self) -> int:
        """How many pairs there are."""
        return len(self.source)

    @classmethod
    def pair(cls, source: Path, target: Path, max_words: int = 0, max_ratio: float = 9.0) -> ParallelText:
        """Return the pairs of two files with a sentence a line, plain or gzipped, in UTF-8.

        Args:
            max_words: leave out pairs with a sentence of more words, between blanks; 0: none. Then pairs of which one has
                more than ``max_ratio`` times as many words as the other are left out, too.

        Raises:
            ConfigError: the files differ in their number of lines, hold no pair, or are no text.

        Left out in any case, and said: pairs of which a line is empty (WMT's files hold some).
        """
        lines = zip(_lines(source), _lines(target), strict=True)
        try:
            return cls._kept(lines, os.fspath(source), max_words, max_ratio)
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            counts = " and ".join(f"{os.fspath(path)} {sum(1 for _ in _lines(path))}" for path in (source, target))
            fix = "take the two files of one corpus: line by line they are translations of each other"
            raise ConfigError(f"the two files differ in their number of lines: {counts}", at=os.fspath(source), fix=fix) from None

    @classmethod
    def tsv(
        cls, path: Path, columns: tuple[int, int] = (0, 1), max_words: int = 0, max_ratio: float = 9.0
    ) -> ParallelText:
        """Return the pairs of a file with ``SOURCE<TAB>TARGET`` in each line, plain or gzipped.

        Args:
            columns: which columns are source and target, from 0.
            max_words, max_ratio: as in ``pair``.

        Raises:
            ConfigError: a line has too few columns (says which), or there is no pair.
        """

        def split() -> Iterator[tuple[str, str]]:
            for number, line in enumerate(_lines(path), 1):
                fields = line.split("\t")
                if len(fields) <= max(columns):
                    what = f"{len(fields)} columns, and column {max(columns)} is asked for (from 0)"
                    raise ConfigError(what, at=f"{os.fspath(path)}:{number}", fix="give the columns: columns=(SOURCE, TARGET)")
                yield fields[columns[0]], fields[columns[1]]

        return cls._kept(split(), os.fspath(path), max_words, max_ratio)

    @classmethod
    def _kept(cls, pairs: Iterable[tuple[str, str]], place: str, max_words: int, max_ratio: float) -> ParallelText:
        if max_words < 0 or max_ratio < 1:
            what = f"max_words must be >= 0 and max_ratio >= 1, got {max_words} and {max_ratio}"
            raise ConfigError(what, at="ParallelText", fix="use max_words=0 to keep sentences of any length")
        kept = cls([], [])
        num_empty = num_long = 0
        for source, target in pairs:
            source, target = source.strip(), target.strip()
            if not source or not target:
                num_empty += 1
                continue
            if max_words:
                few, many = sorted((len(source.split()), len(target.split())))
                if many > max_words or many > max_ratio * few:
                    num_long += 1
                    continue
            kept.source.append(source)
            kept.target.append(target)
        if num_empty or num_long:
            long = f", {num_long} with more than {max_words} words or {max_ratio:g} times the other's" if max_words else ""
            info(f"{place}: {kept.num_samples} pairs; left out {num_empty} with an empty line{long}")
        if not kept.num_samples:
            raise ConfigError("the files hold no pair of sentences", at=place, fix="check the files, and max_words")
        return kept


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines; only a line feed ends one: text holds other characters that Python would take for line ends."""
    place = os.fspath(path)
    zipped = is_zipped(place)
    with reading(place), gzip.open(place, "rb") if zipped else open(place, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                fix = "convert the file: iconv -f latin1 -t utf8"
                raise ConfigError(f"a line is not UTF-8: {error.reason}", at=f"{place}:{number}", fix=fix) from None
