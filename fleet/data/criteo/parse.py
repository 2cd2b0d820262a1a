"""Text of the raw format into arrays: eight characters at a time, no Python per field.

Every field is gathered as one 64-bit word of characters and decoded with arithmetic on all eight at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fleet.data.block import I64, Block
from fleet.data.criteo.layout import NUM_DENSE, NUM_FIELDS, check_num_buckets, slot_ids, squash
from fleet.data.digits import PADDING, U64, Bool, Text, digits, padded
from fleet.data.format import TextFormat, finish

MAX_DIGITS = 16  # of an integer: two words

_WORD = 8
_REASONS = (
    f"not {NUM_FIELDS} fields between tabs",
    "the label is not 0 or 1",
    f"one of fields 2 to 14 is not an integer of at most {MAX_DIGITS} digits",
    "one of fields 15 to 40 is not eight hexadecimal digits",
)


@dataclass(frozen=True)
class Criteo(TextFormat):
    """Read the raw Criteo click logs: ``{"ids": int64[n, 26], "dense": float32[n, 13], "label": float32[n]}``.

    Args:
        num_buckets: ids lie in 0 to ``num_buckets - 1``; how they are made: ``fleet.data.criteo.layout``.

    Raises:
        ConfigError: too few buckets.

    Cost: about 1 us a line on one core (1 M lines/s).
    """

    num_buckets: int
    form: ClassVar[str] = (
        "the raw Criteo format (label, 13 integers, 26 strings of eight hexadecimal digits, between tabs)"
    )

    def __post_init__(self) -> None:
        check_num_buckets(self.num_buckets)

    def parse_piece(self, text: bytes) -> Block:
        """Parse a few thousand whole lines."""
        chars, words = found = padded(text)
        separators = np.flatnonzero((chars - np.uint8(9)) <= 1)  # tab is 9, LF is 10
        line_ends = np.flatnonzero(chars[separators] == 10)
        num_fields = np.diff(line_ends, prepend=-1)
        whole = num_fields == NUM_FIELDS
        if whole.all():
            ends = separators.reshape(-1, NUM_FIELDS)
        else:
            ends = separators[line_ends[whole][:, None] + np.arange(1 - NUM_FIELDS, 1)]
        line_starts = np.concatenate(([PADDING], separators[line_ends[:-1]] + 1))[: len(whole)]
        starts = np.empty_like(ends)
        starts[:, 0] = line_starts[whole]
        np.add(ends[:, :-1], 1, out=starts[:, 1:])
        lengths = ends - starts

        label_chars = chars[starts[:, 0]] - np.uint8(48)
        label_ok = (lengths[:, 0] == 1) & (label_chars <= 1)
        middle = slice(1, 1 + NUM_DENSE)
        integers, integers_ok = _integers(found, starts[:, middle], ends[:, middle], lengths[:, middle])
        values, strings_ok = _hexadecimals(words, starts[:, 1 + NUM_DENSE :], lengths[:, 1 + NUM_DENSE :])
        rows_ok = (label_ok, integers_ok.all(axis=1), strings_ok.all(axis=1))
        ids = slot_ids(values, lengths[:, 1 + NUM_DENSE :] == 0, self.num_buckets)
        why = np.full(len(whole), 1, np.int8)
        why[whole] = np.select([~one for one in rows_ok], [-2, -3, -4], 0)
        columns = {"ids": ids, "dense": squash(integers), "label": label_chars.astype(np.float32)}
        return finish(columns, why, _REASONS, text, separators[line_ends])


def _integers(text: Text, starts: I64, ends: I64, lengths: I64) -> tuple[I64, Bool]:
    """Return the values, int64[n, 13] (0 for blanks), and which are integers at all."""
    chars, words = text
    negative = chars[starts] == 45  # of a blank this is the separator
    num_digits = lengths - negative
    values, ok = digits(words[ends - _WORD], np.minimum(num_digits, _WORD))
    ok &= (num_digits > 0) | (lengths == 0)
    ok &= num_digits <= MAX_DIGITS
    long = np.nonzero((num_digits > _WORD) & ok)
    if long[0].size:
        high, high_ok = digits(words[ends[long] - 2 * _WORD], num_digits[long] - _WORD)
        values[long] += high * np.uint64(10**8)
        ok[long] &= high_ok
    signed = values.view(np.int64)
    np.negative(signed, out=signed, where=negative)
    return signed, ok


def _hexadecimals(words: U64, starts: I64, lengths: I64) -> tuple[U64, Bool]:
    """Return the values, uint64[n, 26], and which fields are blank or eight hexadecimal digits."""
    w = words[starts]
    x = (w >> np.uint64(6)) & np.uint64(0x0101010101010101)  # 1 in each byte that may be a letter
    w |= x << np.uint64(5)  # letters to lower case
    x *= np.uint64(9)
    x += w & np.uint64(0x0F0F0F0F0F0F0F0F)
    x &= np.uint64(0x0F0F0F0F0F0F0F0F)
    # The digits that would be written for x must be the characters that are there.
    t = (x + np.uint64(0x0606060606060606)) >> np.uint64(4)
    t &= np.uint64(0x0101010101010101)
    t *= np.uint64(0x27)
    t += x
    t += np.uint64(0x3030303030303030)
    ok = t == w
    ok &= lengths == _WORD
    ok |= lengths == 0
    for shift, lanes in ((4, 0x00FF00FF00FF00FF), (8, 0x0000FFFF0000FFFF), (16, 0x00000000FFFFFFFF)):
        np.right_shift(x, np.uint64(2 * shift), out=t)
        x <<= np.uint64(shift)
        x |= t
        x &= np.uint64(lanes)
    return x, ok
