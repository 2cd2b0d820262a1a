"""MultiSlot, slot:value and libffm text: the vectorised parsers agree with slow ones on good, odd and bad lines, however cut."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.data import Libffm, MultiSlot, Slot, SlotValue, TextFormat, format
from fleet.data.block import Block, Ragged
from fleet.data.format import Format
from fleet.errors import ConfigError

SLOTS = [Slot("label", "int", 1), Slot("a", "int", 1, "pair"), Slot("b", "int", 1, "pair"), Slot("words", "uint64"),
         Slot("x", "int", None, "bag"), Slot("y", "int", None, "bag"), Slot("dense", "float", 3)]  # fmt: skip
FLOAT = re.compile(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def number(kind: str, word: bytes) -> Any:
    """Return a word's value, or None."""
    if kind == "float":
        value = float(word) if FLOAT.fullmatch(word) else float("inf")
        return np.float32(value) if abs(value) < 3.4e38 else None
    value = int(word) if re.fullmatch(rb"-?[0-9]{1,20}" if kind == "int" else rb"[0-9]{1,20}", word) else -(2**70)
    return value if (-(2**63) < value < 2**63 if kind == "int" else 0 <= value < 2**64) else None


def multislot(line: bytes) -> list[list[Any]] | None:
    words, rows = line.split(), []
    for slot in SLOTS:
        if not words or not re.fullmatch(rb"[0-9]{1,20}", words[0]):
            return None
        count = int(words.pop(0))
        if count > len(words) or (slot.width is not None and count != slot.width):
            return None
        rows.append([number(slot.kind, word) for word in words[:count]])
        del words[:count]
    return None if words or any(v is None for row in rows for v in row) else rows


def slot_value(line: bytes) -> list[list[Any]] | None:
    rows: dict[str, list[Any]] = {slot.name: [] for slot in SLOTS}
    if not line.split():
        return None
    for word in line.split():
        name, colon, value = word.partition(b":")
        if not colon or not name or not value:
            return None
        if name.decode("latin-1") in rows:
            rows[name.decode("latin-1")].append(value)
    found = []
    for slot in SLOTS:
        row = [number(slot.kind, value) for value in rows[slot.name]]
        if None in row or (slot.width is not None and len(row) not in (0, slot.width)):
            return None
        found.append(row if row or slot.width is None else [0] * slot.width)
    return found


def agree(block: Block, lines: list[bytes], oracle: Any) -> None:
    expected = [oracle(line) for line in lines]
    bad = [i for i, rows in enumerate(expected) if rows is None]
    assert block.left_out.tolist() == bad and block.num_lines == len(lines)
    assert [one.line for one in block.bad] == bad[:5]
    good = [rows for rows in expected if rows is not None]
    columns = block.columns
    assert list(columns) == ["label", "pair", "words", "bag", "dense"]
    assert columns["label"].tolist() == [rows[0][0] for rows in good] and columns["label"].dtype == np.int64
    assert columns["pair"].tolist() == [rows[1] + rows[2] for rows in good]
    words, bag = columns["words"], columns["bag"]
    assert isinstance(words, Ragged) and isinstance(bag, Ragged)
    assert words.values.tolist() == [v for rows in good for v in rows[3]] and words.values.dtype == np.uint64
    assert words.lengths.tolist() == [len(rows[3]) for rows in good]
    assert bag.values.tolist() == [v for rows in good for v in rows[4] + rows[5]]
    assert bag.lengths.tolist() == [[len(rows[4]), len(rows[5])] for rows in good]
    assert columns["dense"].dtype == np.float32 and columns["dense"].shape == (len(good), 3)
    np.testing.assert_array_equal(columns["dense"], np.array([rows[6] for rows in good], np.float32).reshape(-1, 3))


GOOD = b"1 1 1 7 1 -8 2 18446744073709551615 12345678 0 1 9 3 0.5 -1.25 3"
MULTI = [
    GOOD, GOOD + b" ", b" " + GOOD, GOOD.replace(b" ", b"  "), GOOD.replace(b" ", b"\t"),
    b"1 0 1 123456789012 1 1 1 00012345678901234567 3 1 2 3 0 3 .5 5. +1e3",
    b"1 9223372036854775807 1 1 1 1 0 0 0 3 123456.789 0.6931471805599453 1e-3",
    b"1 1 1 1 1 1 11 " + b"5 " * 11 + b"0 0 3 1 2 12345678901234567890",
    # none of these is a sample
    b"", b" ", b"x", b"1", b"1 1", GOOD[:-2], GOOD + b" 1", b"2" + GOOD[1:], GOOD.replace(b"3 0.5", b"2 0.5"), b"-" + GOOD,
    GOOD.replace(b"0.5", b"0.5.1"), GOOD.replace(b"0.5", b"nan"), GOOD.replace(b"0.5", b"inf"), GOOD.replace(b"0.5", b"1e99"),
    GOOD.replace(b"0.5", b"."), GOOD.replace(b"0.5", b"-"), GOOD.replace(b"0.5", b"1_0"), GOOD.replace(b"0.5", b"0x1"),
    GOOD.replace(b"18446744073709551615", b"18446744073709551616"), GOOD.replace(b"18446744073709551615", b"-1"),
    GOOD.replace(b" 7 ", b" 9223372036854775808 "), GOOD.replace(b" 7 ", b" 7x "), GOOD.replace(b" 7 ", b" 123456789012345678901 "),
    GOOD.replace(b"2 1844", b"99999999999999999999 1844"), GOOD.replace(b"2 1844", b"18446744073709551615 1844"), b"\xff" * 50,
]  # fmt: skip
PAIRS = [
    b"label:1 a:7 b:8 words:18446744073709551615 words:5 y:9 dense:0.5 dense:-1.25 dense:3",
    b"dense:1 dense:2 y:3 words:4 x:5 dense:3 y:6 x:7 label:0", b"other:1 a_longer_name_than_that:2 label:1", b"label:1 ",
    b"words:1 words:2", b"nothing:here", b"x:123456789012345678",
    b"", b" ", b"label", b"label:", b":1", b"label:1 label:2", b"label:1 dense:1", b"label:1:2", b"words:-1", b"x:1.5", b"a:x",
    b"label:1 what", b"\xff:1 label:5", b"dense:1 dense:2 dense:x",
]  # fmt: skip
CASES = {"MultiSlot": (MultiSlot(SLOTS), MULTI, multislot), "SlotValue": (SlotValue(SLOTS), PAIRS, slot_value)}


@pytest.mark.parametrize("name", CASES)
def test_each_line_alone_and_between_others(name: str) -> None:
    parser, lines, oracle = CASES[name]
    for line in lines:
        agree(parser.parse(line + b"\n"), [line], oracle)
        agree(parser.parse(b"\r\n".join([lines[0], line, lines[0]])), [lines[0], line, lines[0]], oracle)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_mixture_and_any_change_of_it(name: str, data: Any) -> None:
    parser, lines, oracle = CASES[name]
    chosen = data.draw(st.lists(st.sampled_from(lines), min_size=1, max_size=20))
    changed = bytearray(data.draw(st.sampled_from(chosen)) or b"1")
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.sampled_from(b"0123456789 .:-+eEx\xff"))
    agree(parser.parse(b"\n".join([*chosen, bytes(changed)]) + b"\n"), [*chosen, bytes(changed)], oracle)


@pytest.mark.parametrize("name", CASES)
def test_pieces_however_cut(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parser, lines, oracle = CASES[name]
    for size in (1, 100, 1000):
        monkeypatch.setattr(format, "PIECE_BYTES", size)
        agree(parser.parse(b"\n".join(lines * 3) + b"\n"), lines * 3, oracle)
    assert parser.parse(b"").num_lines == 0


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(-1e6, 1e6)), min_size=1), st.data())
def test_every_float_is_the_nearest(values: list[float], data: Any) -> None:
    forms = [data.draw(st.sampled_from(["{!r}", "{:.6g}", "{:.3f}", "{:.9f}", "{:e}", "{:.0f}"])).format(v) for v in values]
    forms = [form for form in forms if abs(float(form)) < 3.4e38]
    text = " ".join([str(len(forms)), *forms]).encode()
    found = MultiSlot([Slot("x", "float")]).parse(text + b"\n")
    assert not found.num_bad
    # Two roundings, to float64 and from there, as float32(float(text)) has; 17 digits and more may fall on the other side.
    np.testing.assert_array_max_ulp(found.columns["x"].values, np.array([float(f) for f in forms], np.float32), 1)  # type: ignore[union-attr]
    short = [i for i, form in enumerate(forms) if len(form.strip("-")) <= 15 and "e" not in form]
    exact = np.array([float(f) for f in forms], np.float32)
    np.testing.assert_array_equal(found.columns["x"].values[short], exact[short])  # type: ignore[union-attr]


def test_libffm() -> None:
    text = b"1 0:3:0.5 2:99:-1\n-1 1:7:1 \n0\n2 2:5:1e-3 0:123456789012:2\n"
    found = Libffm().parse(text)
    assert found.columns["label"].tolist() == [1, 0, 0, 1] and not found.num_bad
    ids, values, fields = (found.columns[name] for name in ("ids", "values", "fields"))
    assert isinstance(ids, Ragged) and isinstance(values, Ragged) and isinstance(fields, Ragged)
    assert ids.values.tolist() == [3, 99, 7, 5, 123456789012] and ids.lengths.tolist() == [2, 1, 0, 2]
    assert fields.values.tolist() == [0, 2, 1, 2, 0] and values.values.tolist() == np.float32([0.5, -1, 1, 1e-3, 2]).tolist()
    square = Libffm(3).parse(text).columns
    assert square["ids"].tolist() == [[3, 0, 99], [0, 7, 0], [0, 0, 0], [123456789012, 0, 5]]
    assert square["values"].tolist() == np.float32([[0.5, 0, -1], [0, 1, 0], [0, 0, 0], [2, 0, 1e-3]]).tolist()


@pytest.mark.parametrize("line", [b"", b"x", b"1:2:3", b"1 2", b"1 2:3", b"1 1:2:3:4", b"1 a:2:3", b"1 1:-2:3", b"1 1:2:x",
                                  b"1 1:2:", b"1 1::3", b"1 :2:3", b"nan 1:2:3", b"1 1:9223372036854775808:1"])  # fmt: skip
def test_bad_libffm_lines(line: bytes) -> None:
    good = b"1 0:3:0.5 1:99:1\n"
    for form in (Libffm(), Libffm(2)):
        found = form.parse(good + line + b"\n" + good)
        assert found.left_out.tolist() == [1] and found.num_samples == 2
    twice = Libffm(2).parse(good + b"1 1:2:3 1:4:5\n1 2:1:1\n")
    assert twice.left_out.tolist() == [1, 2] and Libffm().parse(b"1 1:2:3 1:4:5\n1 2:1:1\n").num_bad == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Slot("a", "double"), "kind"),
        (lambda: Slot("a", width=0), "width"),
        (lambda: Slot("two words"), "name"),
        (lambda: Slot("x" * 17), "16 bytes"),
        (lambda: MultiSlot([]), "no slots"),
        (lambda: MultiSlot([7]), "not a slot"),  # type: ignore[list-item]
        (lambda: MultiSlot([Slot("a", width=1, column="c"), Slot("b", width=2, column="c")]), "differ"),
        (lambda: MultiSlot([Slot("a"), Slot("b"), Slot("a")]), "one after the other"),
        (lambda: SlotValue([Slot("a"), Slot("a")]), "twice"),
        (lambda: Libffm(0), "num_fields"),
    ],
)
def test_wrong_declarations_are_refused(wrong: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        wrong()


def test_a_format_that_lacks_a_method_is_refused_when_it_is_made() -> None:
    class Lines(TextFormat):
        """Forgot parse_piece."""

    class Blocks(Format):
        """Forgot load."""

    for kind, method in ((Lines, "parse_piece"), (Blocks, "load"), (TextFormat, "parse_piece")):
        with pytest.raises(ConfigError, match=rf"{kind.__name__} is no format: it lacks {method}\(\)") as raised:
            kind()  # type: ignore[abstract]
        assert f"write {method}(self, " in raised.value.fix and raised.value.at == kind.__module__
