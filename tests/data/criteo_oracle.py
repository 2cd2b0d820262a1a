"""The raw Criteo format, slowly and obviously: what the vectorised parser must agree with."""

import math
import re


def mix(z):
    z = (z + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def slot_id(slot, text, num_buckets):
    return slot if text == "" else 26 + mix(slot * 2**32 + int(text, 16)) % (num_buckets - 26)


def lines_of(text):
    lines = [line.removesuffix(b"\r").decode("latin-1") for line in text.split(b"\n")]
    return lines[:-1] if text.endswith(b"\n") or not text else lines


def parse(text, num_buckets):
    """Return (ids, dense, labels, numbers of bad lines from 0)."""
    ids, dense, labels, bad = [], [], [], []
    for number, line in enumerate(lines_of(text)):
        fields = line.split("\t")
        good = (
            len(fields) == 40
            and fields[0] in ("0", "1")
            and all(f == "" or re.fullmatch("-?[0-9]{1,16}", f) for f in fields[1:14])
            and all(f == "" or re.fullmatch("[0-9a-fA-F]{8}", f) for f in fields[14:])
        )
        if not good:
            bad.append(number)
            continue
        values = [int(f or 0) for f in fields[1:14]]
        labels.append(int(fields[0]))
        dense.append([math.copysign(math.log1p(abs(v)), v) for v in values])
        ids.append([slot_id(slot, f, num_buckets) for slot, f in enumerate(fields[14:])])
    return ids, dense, labels, bad


def line(label="1", integers=None, strings=None):
    """Build a good line (no line end) with some fields replaced: {index: text}."""
    numbers = [str(i * 7 - 3) for i in range(13)]
    texts = [f"{(i + 1) * 0x0812F3A7 % 2**32:08x}" for i in range(26)]
    for at, value in (integers or {}).items():
        numbers[at] = value
    for at, value in (strings or {}).items():
        texts[at] = value
    return "\t".join([label, *numbers, *texts]).encode()
