"""Text of the raw format into arrays: eight characters at a time, no Python per field.

Every field is gathered as one 64-bit word of characters and decoded with arithmetic on all eight at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fleet.data.criteo.layout import NUM_DENSE, NUM_FIELDS, U64, slot_ids, squash

I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

MAX_DIGITS = 16  # of an integer: two words
NUM_SHOWN = 5  # bad lines of a block that are kept to be shown

_PIECE_BYTES = 1 << 19  # text parsed at once: its arrays stay in a 2 MB cache
_WORD = 8
_KEEP: U64 = np.array([((1 << 64) - 1) ^ ((1 << (64 - 8 * n)) - 1) for n in range(9)], np.uint64)  # the last n characters


class BadLine(NamedTuple):
    """A line that is not a sample. ``line`` counts from 0 within the block."""

    line: int
    reason: str
    text: str


class Block(NamedTuple):
    """The samples of a block of text, and what was left out of it."""

    ids: I64  # int64[n, 26]
    dense: npt.NDArray[np.float32]  # float32[n, 13]
    label: npt.NDArray[np.float32]  # float32[n]
    num_lines: int
    num_bad: int
    bad: list[BadLine]  # the first NUM_SHOWN


def parse(text: bytes, num_buckets: int) -> Block:
    """Parse a block of whole lines.

    Cost: about 1 us a line on one core (1 M lines/s).
    """
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    if text and not text.endswith(b"\n"):
        text = text.removesuffix(b"\r") + b"\n"
    blocks = []
    start = 0
    while start < len(text):
        end = len(text) if start + _PIECE_BYTES >= len(text) else text.find(b"\n", start + _PIECE_BYTES) + 1
        blocks.append(_parse_piece(text[start:end], num_buckets))
        start = end
    return join(blocks)


def join(blocks: list[Block]) -> Block:
    """Return blocks that follow each other as one."""
    if len(blocks) == 1:
        return blocks[0]
    if not blocks:
        return Block(np.empty((0, 26), np.int64), np.empty((0, 13), np.float32), np.empty(0, np.float32), 0, 0, [])
    bad: list[BadLine] = []
    num_lines = 0
    for block in blocks:
        bad += [b._replace(line=b.line + num_lines) for b in block.bad]
        num_lines += block.num_lines
    return Block(
        np.concatenate([b.ids for b in blocks]),
        np.concatenate([b.dense for b in blocks]),
        np.concatenate([b.label for b in blocks]),
        num_lines,
        sum(b.num_bad for b in blocks),
        bad[:NUM_SHOWN],
    )


def _parse_piece(text: bytes, num_buckets: int) -> Block:
    padded = b"\0" * _WORD + text + b"\0" * _WORD
    chars = np.frombuffer(padded, np.uint8)
    # A word at every character: word[i] holds characters i to i+7, the first in the lowest byte.
    words: U64 = np.ndarray((len(padded) - _WORD + 1,), "<u8", padded, strides=(1,))
    separators = np.flatnonzero((chars - np.uint8(9)) <= 1)  # tab is 9, LF is 10
    line_ends = np.flatnonzero(chars[separators] == 10)
    num_fields = np.diff(line_ends, prepend=-1)
    whole = num_fields == NUM_FIELDS
    if whole.all():
        ends = separators.reshape(-1, NUM_FIELDS)
    else:
        ends = separators[line_ends[whole][:, None] + np.arange(1 - NUM_FIELDS, 1)]
    line_starts = np.concatenate(([_WORD], separators[line_ends[:-1]] + 1))
    starts = np.empty_like(ends)
    starts[:, 0] = line_starts[whole]
    np.add(ends[:, :-1], 1, out=starts[:, 1:])
    lengths = ends - starts

    label_chars = chars[starts[:, 0]] - np.uint8(48)
    label_ok = (lengths[:, 0] == 1) & (label_chars <= 1)
    middle = slice(1, 1 + NUM_DENSE)
    integers, integers_ok = _integers(chars, words, starts[:, middle], ends[:, middle], lengths[:, middle])
    values, strings_ok = _hexadecimals(words, starts[:, 1 + NUM_DENSE :], lengths[:, 1 + NUM_DENSE :])
    rows_ok = (label_ok, integers_ok.all(axis=1), strings_ok.all(axis=1))
    ok = rows_ok[0] & rows_ok[1] & rows_ok[2]
    ids = slot_ids(values, lengths[:, 1 + NUM_DENSE :] == 0, num_buckets)
    dense, label = squash(integers), label_chars.astype(np.float32)
    num_bad = len(whole) - int(np.count_nonzero(ok))
    if not num_bad:
        return Block(ids, dense, label, len(whole), 0, [])
    why = np.full(len(whole), 1, np.int8)
    why[whole] = np.select([~one for one in rows_ok], [2, 3, 4], 0)
    bad = []
    for line in np.flatnonzero(why)[:NUM_SHOWN].tolist():
        shown = _text(text, int(line_starts[line]), int(separators[line_ends[line]]))
        bad.append(BadLine(line, _reason(int(why[line]), int(num_fields[line])), shown))
    return Block(ids[ok], dense[ok], label[ok], len(whole), num_bad, bad)


def _integers(chars: npt.NDArray[np.uint8], words: U64, starts: I64, ends: I64, lengths: I64) -> tuple[I64, Bool]:
    """Return the values, int64[n, 13] (0 for blanks), and which are integers at all."""
    negative = chars[starts] == 45  # of a blank this is the separator
    num_digits = lengths - negative
    values, ok = _digits(words[ends - _WORD], np.minimum(num_digits, _WORD))
    ok &= (num_digits > 0) | (lengths == 0)
    ok &= num_digits <= MAX_DIGITS
    long = np.nonzero((num_digits > _WORD) & ok)
    if long[0].size:
        high, high_ok = _digits(words[ends[long] - 2 * _WORD], num_digits[long] - _WORD)
        values[long] += high * np.uint64(10**8)
        ok[long] &= high_ok
    signed = values.view(np.int64)
    np.negative(signed, out=signed, where=negative)
    return signed, ok


def _digits(words: U64, num_digits: I64) -> tuple[U64, Bool]:
    """Return the decimal value of the last ``num_digits`` (0 to 8) characters of each word, and which are all digits."""
    keep = _KEEP[num_digits]
    x = words & keep
    keep &= np.uint64(0x3030303030303030)
    x ^= keep
    t = x + np.uint64(0x7676767676767676)  # sets the top bit of each byte above 9
    t |= x
    t &= np.uint64(0x8080808080808080)
    ok = t == 0
    # Pairs, then fours, then all eight, in the bytes where each multiplication leaves them.
    np.right_shift(x, np.uint64(8), out=t)
    x *= np.uint64(10)
    x += t
    np.right_shift(x, np.uint64(16), out=t)
    t &= np.uint64(0x000000FF000000FF)
    t *= np.uint64(10000 << 32 | 1)
    x &= np.uint64(0x000000FF000000FF)
    x *= np.uint64(1000000 << 32 | 100)
    x += t
    x >>= np.uint64(32)
    return x, ok


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


def _reason(why: int, num_fields: int) -> str:
    if why == 1:
        return f"{num_fields} fields between tabs instead of {NUM_FIELDS}"
    if why == 2:
        return "the label is not 0 or 1"
    if why == 3:
        return f"one of fields 2 to 14 is not an integer of at most {MAX_DIGITS} digits"
    return "one of fields 15 to 40 is not eight hexadecimal digits"


def _text(text: bytes, start: int, end: int) -> str:
    """Return a line's beginning, fit to be printed. ``start`` and ``end`` count the padding."""
    line = text[start - _WORD : min(end - _WORD, start - _WORD + 60)]
    return repr(line.decode("ascii", "backslashreplace")) + ("..." if end - start > 60 else "")
