"""The words of a corpus by frequency: which word is which id, and how often each was seen."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fleet.data.source import Paths, files, tasks
from fleet.errors import ConfigError


class Vocabulary:
    """Words, the most frequent first: a word's id is its place. On disk: a line ``word count`` each.

    Args:
        words: as bytes, without blanks.
        counts: ``int64[n]``, at least 1 each.
    """

    def __init__(self, words: list[bytes], counts: npt.NDArray[np.int64]) -> None:
        self.words, self.counts = words, counts
        self.ids = {word: i for i, word in enumerate(words)}

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def build(cls, paths: Paths, min_count: int = 5) -> Vocabulary:
        """Count the words of a corpus, between blanks; those seen fewer than ``min_count`` times are left out.

        Raises:
            ConfigError: nothing to read, or no word is frequent enough.

        Cost: about 0.1 us a word, in this process.
        """
        seen: Counter[bytes] = Counter()
        found = files(paths)
        for task in tasks(found):
            seen.update(task.load().split())
        kept = sorted(((-count, word) for word, count in seen.items() if count >= min_count))
        if not kept:
            what = f"no word is there {min_count} times, of {len(seen)} different ones"
            raise ConfigError(what, at=found[0], fix="use a smaller min_count, or check the files")
        return cls([word for _, word in kept], np.array([-count for count, _ in kept]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the words; a file that is there is replaced at the end, in one moment."""
        scratch = Path(f"{os.fspath(path)}.{os.getpid()}.tmp")
        scratch.write_bytes(b"".join(b"%s %d\n" % pair for pair in zip(self.words, self.counts.tolist(), strict=True)))
        os.replace(scratch, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Read what ``save`` wrote.

        Raises:
            ConfigError: there is no such file, or it is not a vocabulary; with the line.
        """
        try:
            lines = Path(path).read_bytes().splitlines()
        except OSError as error:
            fix = "make it: Vocabulary.build(corpus).save(path)"
            raise ConfigError(f"the vocabulary cannot be read: {error.strerror}", at=str(path), fix=fix) from error
        words: list[bytes] = []
        counts: list[int] = []
        for number, line in enumerate(lines, 1):
            pair = line.split()
            if len(pair) != 2 or not pair[1].isdigit() or int(pair[1]) < 1:
                what = f"not a word and its count: {line[:60]!r}"
                raise ConfigError(what, at=f"{os.fspath(path)}:{number}", fix="write a line `word count` for each word")
            words.append(pair[0])
            counts.append(int(pair[1]))
        if not words or len(set(words)) < len(words):
            what = "a word stands twice" if words else "the vocabulary is empty"
            raise ConfigError(what, at=str(path), fix="make it again: Vocabulary.build(corpus).save(path)")
        return cls(words, np.array(counts))
