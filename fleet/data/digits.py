"""Numbers written as text into arrays: eight characters at a time, no Python per number.

A *word* is a 64-bit integer of eight characters, the first in the lowest byte; arithmetic decodes all eight at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]

PADDING = 24  # characters before and after the text, so that a word may begin anywhere: three words, the longest integer
PIECE_BYTES = 1 << 19  # text parsed at once: its arrays stay in a 2 MB cache

_WORD = 8
_KEEP: U64 = np.array([((1 << 64) - 1) ^ ((1 << (64 - 8 * n)) - 1) for n in range(9)], np.uint64)  # the last n characters
_POWERS = 10.0 ** np.arange(23)  # exact in float64
_MINUS, _PLUS, _DOT = 45, 43, 46
# By the byte of a word in which the point is, from 1 (0: none): the characters before it, those behind it, and 10 to their number.
_BELOW: U64 = np.array([0] + [(1 << 8 * k) - 1 for k in range(8)], np.uint64)
_ABOVE: U64 = np.array([(1 << 64) - 1] + [((1 << 64) - 1) ^ ((1 << 8 * (k + 1)) - 1) for k in range(8)], np.uint64)
_SCALE = 10.0 ** np.array([0] + [7 - k for k in range(8)])


class Text(NamedTuple):
    """A piece of text, padded; positions count from the padding's first character."""

    chars: npt.NDArray[np.uint8]
    words: U64  # words[i] holds characters i to i + 7


def padded(text: bytes) -> Text:
    """Return ``text`` with PADDING zeros on both sides."""
    data = bytes(PADDING) + text + bytes(PADDING)
    words: U64 = np.ndarray((len(data) - _WORD + 1,), "<u8", data, strides=(1,))
    return Text(np.frombuffer(data, np.uint8), words)


def last_characters(text: Text, ends: I64, lengths: I64) -> U64:
    """Return the last ``lengths`` (0 to 8) characters before ``ends`` as words, zeros in front."""
    return text.words[ends - _WORD] & _KEEP[lengths]


def first_characters(text: Text, starts: I64, lengths: I64) -> U64:
    """Return the first ``lengths`` (0 to 8) characters from ``starts`` on as words, zeros behind."""
    return text.words[starts] & ~_KEEP[_WORD - lengths]


def digits(words: U64, num_digits: I64) -> tuple[U64, Bool]:
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


def unsigned(text: Text, starts: I64, ends: I64) -> tuple[U64, Bool]:
    """Return the values of decimal integers of 1 to 20 digits below 2**64, and which are that."""
    lengths = ends - starts
    values, ok = digits(text.words[ends - _WORD], np.clip(lengths, 0, _WORD))
    ok &= lengths > 0
    long = np.flatnonzero(lengths > _WORD)
    if long.size:
        end, more = ends[long], lengths[long] - _WORD
        middle, middle_ok = digits(text.words[end - 2 * _WORD], np.minimum(more, _WORD))
        high, high_ok = digits(text.words[end - 3 * _WORD], np.clip(more - _WORD, 0, _WORD))
        low = values[long] + middle * np.uint64(10**8)
        most = np.uint64((2**64 - 1) // 10**16)
        fits = (high < most) | ((high == most) & (low <= np.uint64((2**64 - 1) % 10**16)))
        values[long] = low + high * np.uint64(10**16)
        ok[long] &= middle_ok & high_ok & fits & (more <= 12)
    return values, ok


def signed(text: Text, starts: I64, ends: I64) -> tuple[I64, Bool]:
    """Return the values of decimal integers with or without a minus, and which are that and fit an int64."""
    negative = text.chars[starts] == _MINUS
    values, ok = unsigned(text, starts + negative, ends)
    ok &= values <= np.uint64(2**63 - 1)
    found = values.view(np.int64)
    np.negative(found, out=found, where=negative)
    return found, ok


def floats(text: Text, starts: I64, ends: I64) -> tuple[npt.NDArray[np.float32], Bool]:
    """Return the values of finite decimal numbers, with or without sign, point and exponent, and which are that.

    Numbers of at most 16 digits before and 16 after the point are decoded all at once, with float64's precision before they
    become float32; others (exponents, say) one by one.
    """
    sign = text.chars[starts]
    negative = sign == _MINUS
    first = starts + (negative | (sign == _PLUS))
    lengths = ends - first
    num_chars = np.minimum(lengths, _WORD)
    words = last_characters(text, ends, num_chars)
    # The point, if there is one: the byte that is zero in x has its top bit set in t, no other has.
    x = words ^ np.uint64(0x2E2E2E2E2E2E2E2E)
    t = x & np.uint64(0x7F7F7F7F7F7F7F7F)
    t += np.uint64(0x7F7F7F7F7F7F7F7F)
    t |= x
    t |= np.uint64(0x7F7F7F7F7F7F7F7F)
    np.invert(t, out=t)
    # Which byte that is, from 1; 0: none. A float64's exponent counts the bits below the top one.
    exponent = t.astype(np.float64).view(np.int64) >> 52
    point = np.maximum(exponent - 1022, 0) >> 3
    before = words & _BELOW[point]
    before <<= np.uint64(8)
    before |= words & _ABOVE[point]
    num_digits = num_chars - (point > 0)
    values, ok = digits(before, num_digits)
    ok &= (num_digits > 0) & (lengths <= _WORD)
    number = values / _SCALE[point]  # two exact numbers: correctly rounded
    longer = np.flatnonzero(~ok)
    if longer.size:
        number[longer], ok[longer] = _long_floats(text, first[longer], ends[longer])
    np.negative(number, out=number, where=negative)
    with np.errstate(over="ignore"):
        found = number.astype(np.float32)
    for at in np.flatnonzero(~ok).tolist():
        token = text.chars[starts[at] : ends[at]].tobytes()
        found[at], ok[at] = _one(token)
    ok &= np.isfinite(found)
    return found, ok


def _long_floats(text: Text, first: I64, ends: I64) -> tuple[npt.NDArray[np.float64], Bool]:
    """Return the values of unsigned numbers of up to 16 digits before and 16 after the point, and which are that."""
    dots = np.append(np.flatnonzero(text.chars == _DOT), len(text.chars))
    point = np.minimum(dots[np.searchsorted(dots, first)], ends)
    num_after = ends - point - (point < ends)
    values, ok = _long_digits(text, first, point)
    after, after_ok = _long_digits(text, ends - num_after, ends)
    ok &= after_ok & (point - first + num_after > 0)
    number = values + after / _POWERS[np.clip(num_after, 0, 22)]
    exact = np.flatnonzero((point - first <= 7) & (num_after <= 8))
    if exact.size:  # at most 15 digits: one division of two exact numbers, correctly rounded
        power = _POWERS[num_after[exact]]
        number[exact] = (values[exact] * power + after[exact]) / power
    return number, ok


def _long_digits(text: Text, starts: I64, ends: I64) -> tuple[npt.NDArray[np.float64], Bool]:
    """Return the values of 0 to 16 digits, and which are that."""
    lengths = ends - starts
    low, ok = digits(text.words[ends - _WORD], np.minimum(lengths, _WORD))
    values = low.astype(np.float64)
    long = np.flatnonzero(lengths > _WORD)
    if long.size:
        high, high_ok = digits(text.words[ends[long] - 2 * _WORD], np.minimum(lengths[long] - _WORD, _WORD))
        values[long] += high * 1e8
        ok[long] &= high_ok & (lengths[long] <= 2 * _WORD)
    return values, ok


def _one(token: bytes) -> tuple[Any, bool]:
    if b"_" in token or token != token.strip():
        return 0.0, False
    try:
        with np.errstate(over="ignore"):  # beyond float32 it is not finite, which the caller refuses
            return np.float32(float(token)), True
    except (ValueError, OverflowError):
        return 0.0, False
