"""Skip-gram samples with negatives from a corpus of one tokenised sentence a line, such as the One-Billion-Word files.

Each number drawn comes from (seed, epoch, number of the line, place in it) alone: samples depend neither on how the files are
cut nor on the number of trainers.

Source: Mikolov, Sutskever, Chen, Corrado, Dean, "Distributed representations of words and phrases and their compositionality",
NIPS 2013, and their program (window drawn for each word, subsampling of frequent words, negatives by count^0.75); Vose, "A
linear algorithm for generating random numbers with a given distribution", IEEE TSE 1991 (alias table).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fleet.data.block import I64, Block, Ragged
from fleet.data.format import Format
from fleet.data.mixing import U64, mix
from fleet.data.source import Task
from fleet.data.vocabulary import Vocabulary
from fleet.errors import ConfigError

_LINE_END, _UNKNOWN = -2, -1
_SUBSAMPLE, _WINDOW, _NEGATIVES, _AGAIN = (np.uint64(k << 56) for k in range(4))  # what a number is drawn for


@dataclass(frozen=True)
class SkipGram(Format):
    """Make samples of sentences: ``{"center": int64[p], "context": int64[p], "negatives": int64[p, negatives]}``.

    A batch holds the samples of ``batch_size`` lines, so p differs. Words that the vocabulary does not have are left out.

    Args:
        vocabulary: path of a saved :class:`Vocabulary`.
        window: words to each side, at most; for each word the width is drawn from 1 to this.
        negatives: words drawn for each sample by count^0.75; one that is the context itself is drawn again, once.
        subsample: a word of the share f stays with probability sqrt(subsample / f) + subsample / f; 0: all stay.
        seed: of all that is drawn.

    Raises:
        ConfigError: a number out of range; (on first use) no vocabulary.

    Cost: see benchmarks/readers.py. A line of 25 words becomes some 4 kB.
    """

    vocabulary: str
    window: int = 5
    negatives: int = 5
    subsample: float = 1e-3
    seed: int = 0
    form: ClassVar[str] = "one sentence a line, its words between blanks"
    flat: ClassVar[bool] = True
    block_bytes: ClassVar[int] = 1 << 18  # 64 times as many bytes of samples

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocabulary", str(self.vocabulary))
        for name, least in (("window", 1), ("negatives", 0), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(f"{name} must be an int >= {least}, got {value!r}", at="SkipGram", fix="use a value in range")
        if not 0 <= self.subsample < 1:
            raise ConfigError(f"subsample must be from 0 to 1, got {self.subsample!r}", at="SkipGram", fix="1e-3 to 1e-5 is usual")

    @cached_property
    def _words(self) -> Vocabulary:
        return Vocabulary.load(self.vocabulary)

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {**self._words.ids, b"\0": _LINE_END}

    @cached_property
    def _stays(self) -> npt.NDArray[np.float64]:
        """The probability of each word to stay, as a threshold for 53-bit numbers."""
        share = self._words.counts / self._words.counts.sum()
        return np.minimum(np.sqrt(self.subsample / share) + self.subsample / share, 1) if self.subsample else np.ones(len(share))

    @cached_property
    def _alias(self) -> tuple[npt.NDArray[np.float64], I64]:
        return alias_table(self._words.counts.astype(np.float64) ** 0.75)

    def load(self, task: Task) -> Block:
        """Return a block's samples, those of a line in a row."""
        ids, lengths = self._encoded(task.load())
        return self._samples(ids, lengths, task.line_numbers(len(lengths)), task.epoch)

    def _encoded(self, text: bytes) -> tuple[I64, I64]:
        """Return the ids of all known words, and how many each line has."""
        if text and not text.endswith(b"\n"):
            text += b"\n"
        words = text.replace(b"\0", b" ").replace(b"\n", b" \0 ").split()
        found = np.fromiter(map(self._ids.get, words, repeat(_UNKNOWN)), np.int64, len(words))
        found = found[found != _UNKNOWN]
        ends = np.flatnonzero(found == _LINE_END)
        lengths = np.diff(ends, prepend=-1) - 1
        return found[found >= 0], lengths

    def _samples(self, ids: I64, lengths: I64, numbers: I64, epoch: int) -> Block:
        num_lines = len(lengths)
        of_pass = mix(np.array([self.seed], np.uint64)) ^ np.uint64(epoch)
        key = mix(numbers.astype(np.uint64) + mix(of_pass))
        line = np.repeat(np.arange(num_lines), lengths)
        place = _places(lengths)
        if self.subsample:
            stays = _share(mix(key[line] + place + _SUBSAMPLE)) < self._stays[ids]
            ids, line, place = ids[stays], line[stays], place[stays]
            lengths = np.bincount(line, minlength=num_lines)
        width = 1 + (_share(mix(key[line] + place + _WINDOW)) * self.window).astype(np.int64)
        first = np.repeat(np.cumsum(lengths) - lengths, lengths)
        offsets = np.concatenate([np.arange(-self.window, 0), np.arange(1, self.window + 1)])
        at = np.arange(len(ids))[:, None] + offsets
        inside = (at >= first[:, None]) & (at < (first + lengths[line])[:, None]) & (np.abs(offsets) <= width[:, None])
        center, _ = np.nonzero(inside)
        context = ids[at[inside]]
        of_lines = np.bincount(line[center], minlength=num_lines)
        columns: dict[str, Any] = {"center": Ragged(ids[center], of_lines), "context": Ragged(context, of_lines)}
        if self.negatives:
            columns["negatives"] = Ragged(self._negatives(context, key, of_lines), of_lines)
        return Block(columns, num_lines, np.empty(0, np.int64), [])

    def _negatives(self, context: I64, key: U64, of_lines: I64) -> I64:
        """Draw the negatives, int64[p, negatives]."""
        drawn_from = (np.repeat(key, of_lines) + _places(of_lines) * np.uint64(self.negatives))[:, None]
        drawn_from = drawn_from + np.arange(self.negatives, dtype=np.uint64)
        found = self._draw(mix(drawn_from + _NEGATIVES))
        rows, columns = np.nonzero(found == context[:, None])
        found[rows, columns] = self._draw(mix(drawn_from[rows, columns] + _AGAIN))
        return found

    def _draw(self, numbers: U64) -> I64:
        chance, alias = self._alias
        column = (((numbers >> np.uint64(32)) * np.uint64(len(alias))) >> np.uint64(32)).astype(np.int64)
        share = (numbers & np.uint64(0xFFFFFFFF)) * 2.0**-32
        found: I64 = np.where(share < chance[column], column, alias[column])
        return found


def alias_table(weights: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], I64]:
    """Return for each column the chance to stay there, and where to go else: a draw is one column and one comparison."""
    n = len(weights)
    chance = weights * (n / weights.sum())
    alias = np.arange(n)
    small = np.flatnonzero(chance < 1).tolist()
    large = np.flatnonzero(chance >= 1).tolist()
    left = chance.tolist()
    while small and large:
        low, high = small.pop(), large[-1]
        alias[low] = high
        left[high] -= 1 - left[low]
        if left[high] < 1:
            small.append(large.pop())
    found = np.array(left)
    found[small + large] = 1.0  # rounding left them a little off
    return found, alias


def _places(lengths: I64) -> U64:
    """Return 0, 1, ... within each of the lengths."""
    return (np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)).astype(np.uint64)


def _share(numbers: U64) -> npt.NDArray[np.float64]:
    """Return numbers in [0, 1) from 64 random bits each."""
    found: npt.NDArray[np.float64] = (numbers >> np.uint64(11)) * 2.0**-53
    return found
