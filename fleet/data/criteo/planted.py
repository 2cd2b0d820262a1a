"""Samples with a planted signal: what a model can know about them is known.

Each slot draws an id by its popularity (1 / rank, like words), each integer from a heavy-tailed distribution. A sample's
click probability is a logistic model of hidden effects: one of each id, one of each integer, and one of each pair of
ids of two slots. All is drawn from the seed through tables of 2**16 equally likely entries, so that making a sample is
only looking things up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fleet.data.criteo.layout import NUM_DENSE, NUM_SLOTS, squash
from fleet.data.mixing import mix

F32 = npt.NDArray[np.float32]
Chars = npt.NDArray[np.uint8]

_ENTRIES = 1 << 16
_INT_WIDTH = 7  # characters of the longest integer
_CLICK_RATE = 0.25
# Standard deviations of the effects on the logit, chosen so that the best possible AUC is a bit above 0.80.
_ID_EFFECT, _DENSE_EFFECT, _PAIR_EFFECT = 0.3, 0.1, 0.3
_PAIR = (4, 6)  # the two slots whose pairs of ids have an effect of their own
_SMALLEST, _LARGEST = 8, 10000  # ids of the smallest and the largest slot
_BLANK_SLOTS, _BLANK_IDS = range(2, NUM_SLOTS, 4), 0.1  # which slots are blank now and then, and how often
_BLANK_INTEGERS = 0.15  # of every second integer


class Samples(NamedTuple):
    """Samples as text and what is behind them."""

    text: bytes  # n lines
    probability: npt.NDArray[np.float64]  # float64[n], of label 1
    label: npt.NDArray[np.bool_]


class Planted:
    """The hidden model of one seed; draws any number of samples in blocks that do not depend on each other."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = self._generator(0, 0)
        sizes = np.geomspace(_SMALLEST, _LARGEST, NUM_SLOTS).astype(np.int64)
        self._strings = np.zeros((NUM_SLOTS, _ENTRIES, 8), np.uint8)
        self._effects = np.zeros((NUM_SLOTS, _ENTRIES), np.float32)
        ids = [self._fill_slot(rng, slot, int(size)) for slot, size in enumerate(sizes)]
        self._pair_ids = [ids[slot] for slot in _PAIR]
        self._pair_effects = rng.normal(0, _PAIR_EFFECT, [int(sizes[slot]) + 1 for slot in _PAIR]).astype(np.float32)
        self._integers = np.zeros((NUM_DENSE, _ENTRIES, _INT_WIDTH), np.uint8)
        self._dense_effects = np.zeros((NUM_DENSE, _ENTRIES), np.float32)
        for column in range(NUM_DENSE):
            self._fill_column(rng, column)
        self._bias = 0.0
        self._bias = self._bias_for(_CLICK_RATE)

    def draw(self, part: int, block: int, num_samples: int) -> Samples:
        """Draw block ``block`` of part ``part`` (1: training, 2: held out)."""
        rng = self._generator(part, block)
        strings, integers, probability = self._draw(rng, num_samples)
        label = rng.random(num_samples) < probability
        return Samples(self._lines(label, strings, integers), probability, label)

    def _generator(self, part: int, block: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, part, block])))

    def _fill_slot(self, rng: np.random.Generator, slot: int, num_ids: int) -> npt.NDArray[np.int64]:
        """Fill a slot's tables; return the id of each entry (``num_ids``: blank)."""
        share = (np.arange(_ENTRIES) + 0.5) / _ENTRIES
        # The inverse of a distribution with density 1 / rank on 1 to num_ids + 1.
        ids: npt.NDArray[np.int64] = np.minimum(np.exp(share * np.log(num_ids + 1)).astype(np.int64) - 1, num_ids - 1)
        if slot in _BLANK_SLOTS:
            ids[rng.random(_ENTRIES) < _BLANK_IDS] = num_ids
        values = mix(np.arange(num_ids, dtype=np.uint64) + np.uint64((slot + 1) << 32)) >> np.uint64(32)
        texts = np.zeros((num_ids + 1, 8), np.uint8)
        texts[:-1] = _hexadecimal(values)
        self._strings[slot] = texts[ids]
        self._effects[slot] = rng.normal(0, _ID_EFFECT, num_ids + 1).astype(np.float32)[ids]
        return ids

    def _fill_column(self, rng: np.random.Generator, column: int) -> None:
        share = (np.arange(_ENTRIES) + 0.5) / _ENTRIES
        values = (rng.uniform(1, 20) * np.log(1 - share) ** 2).astype(np.int64)
        values *= 100 if column == 4 else 1  # one column of large numbers, as in the real data
        values -= 3 if column == 1 else 0  # and one with negative ones
        blank = rng.random(_ENTRIES) < (_BLANK_INTEGERS if column % 2 else 0.0)
        values[blank] = 0
        texts = values.astype(f"S{_INT_WIDTH}")
        texts[blank] = b""
        self._integers[column] = texts.view(np.uint8).reshape(_ENTRIES, _INT_WIDTH)
        seen = squash(values)
        self._dense_effects[column] = rng.normal(0, _DENSE_EFFECT) * (seen - seen.mean()) / seen.std()

    def _draw(self, rng: np.random.Generator, num_samples: int) -> tuple[Chars, Chars, npt.NDArray[np.float64]]:
        """Return the characters of strings, [n, 26, 8], and integers, [n, 13, 7], and the click probabilities."""
        entry = rng.integers(0, _ENTRIES, (num_samples, NUM_SLOTS), dtype=np.uint16)
        number = rng.integers(0, _ENTRIES, (num_samples, NUM_DENSE), dtype=np.uint16)
        slots, columns = np.arange(NUM_SLOTS), np.arange(NUM_DENSE)
        pair = [ids[entry[:, slot]] for slot, ids in zip(_PAIR, self._pair_ids, strict=True)]
        logit = self._effects[slots, entry].sum(axis=1, dtype=np.float64)
        logit += self._dense_effects[columns, number].sum(axis=1, dtype=np.float64)
        logit += self._pair_effects[pair[0], pair[1]]
        return self._strings[slots, entry], self._integers[columns, number], 1 / (1 + np.exp(-logit - self._bias))

    def _lines(self, label: npt.NDArray[np.bool_], strings: Chars, integers: Chars) -> bytes:
        """Lay the characters out in rows of one width, zero where there is none, and leave the zeros out."""
        num_samples = len(label)
        rows = np.full((num_samples, 1 + NUM_DENSE * (1 + _INT_WIDTH) + NUM_SLOTS * 9 + 1), 9, np.uint8)
        middle = 1 + NUM_DENSE * (1 + _INT_WIDTH)
        rows[:, 0] = label + np.uint8(48)
        for column in range(NUM_DENSE):
            start = 2 + column * (1 + _INT_WIDTH)
            rows[:, start : start + _INT_WIDTH] = integers[:, column]
        for slot in range(NUM_SLOTS):
            start = middle + 1 + slot * 9
            rows[:, start : start + 8] = strings[:, slot]
        rows[:, -1] = 10
        text: bytes = rows[rows != 0].tobytes()
        return text

    def _bias_for(self, rate: float) -> float:
        """Return the bias at which the mean probability of many samples is ``rate``, by bisection."""
        _, _, probability = self._draw(self._generator(0, 1), _ENTRIES)
        odds = probability / (1 - probability)
        low, high = -20.0, 20.0
        for _ in range(50):
            bias = (low + high) / 2
            shifted = odds * np.exp(bias)
            low, high = (bias, high) if (shifted / (1 + shifted)).mean() < rate else (low, bias)
        return low


def bayes_auc(probability: npt.NDArray[np.float64]) -> float:
    """Return the AUC to be expected of the true click probabilities, float64[n]: nothing can rank better.

    It is the chance that of a clicked and an unclicked sample the first has the higher probability, ties counting
    half, over all pairs of different samples, each weighted by the chance to be such a pair.
    """
    order = np.sort(probability)
    unclicked = 1 - order
    _, first, sizes = np.unique(order, return_index=True, return_counts=True)
    group = np.add.reduceat(unclicked, first)
    below = np.repeat(np.cumsum(group) - group, sizes)
    among = np.repeat(group, sizes) - unclicked  # equal ones, without the sample itself
    won = float((order * (below + among / 2)).sum())
    pairs = float(order.sum() * unclicked.sum() - (order * unclicked).sum())
    return won / pairs


def auc(scores: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
    """Return the area under the ROC curve of scores, float[n], for labels of 0 and 1; equal scores count half."""
    values, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    clicks = np.bincount(group, labels, len(values))
    others = sizes - clicks
    below = np.cumsum(others) - others
    return float((clicks * (below + others / 2)).sum() / (clicks.sum() * others.sum()))


def _hexadecimal(values: npt.NDArray[np.uint64]) -> Chars:
    """Return the eight hexadecimal digits of uint64[n] below 2**32, uint8[n, 8]."""
    shifts = np.arange(28, -4, -4, dtype=np.uint64)
    nibbles = (values[:, None] >> shifts & np.uint64(15)).astype(np.uint8)
    digits: Chars = nibbles + np.uint8(48) + (nibbles > 9) * np.uint8(39)
    return digits
