"""The vectorised parser agrees with the slow one on good, odd and bad lines, however the text is cut."""

import gzip

import criteo_oracle as oracle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.data import criteo, mixing, source
from fleet.data.criteo import Criteo

BUCKETS = 1009

NASTY = [
    oracle.line(),
    oracle.line("0"),
    oracle.line(integers=dict.fromkeys(range(13), "")),
    oracle.line(strings=dict.fromkeys(range(26), "")),
    oracle.line("1", dict.fromkeys(range(13), ""), dict.fromkeys(range(26), "")),
    oracle.line(integers={0: "-1", 1: "-3", 2: "-0", 3: "0", 4: "00", 5: "007"}),
    oracle.line(integers={0: "12345678", 1: "123456789", 2: "-1234567890123456", 3: "9999999999999999", 12: "99999999"}),
    oracle.line(strings={0: "00000000", 1: "ffffffff", 2: "FFFFFFFF", 3: "0aBcDeF9"}),
    oracle.line() + b"\r",
    # none of these is a sample
    b"",
    b"\r",
    b"\t" * 39,
    b"\t" * 100,
    oracle.line("2"),
    oracle.line(""),
    oracle.line("01"),
    oracle.line("-1"),
    oracle.line() + b"\t",
    oracle.line()[:-9],
    oracle.line()[2:],
    oracle.line().replace(b"\t", b" "),
    oracle.line(integers={0: "-"}),
    oracle.line(integers={0: "1-"}),
    oracle.line(integers={0: "--1"}),
    oracle.line(integers={3: "+1"}),
    oracle.line(integers={5: "1.5"}),
    oracle.line(integers={5: "1e3"}),
    oracle.line(integers={12: " 1"}),
    oracle.line(integers={12: "12345678901234567"}),
    oracle.line(integers={12: "x23456789"}),
    oracle.line(integers={7: "/"}),
    oracle.line(integers={7: ":"}),
    oracle.line(strings={0: "1234567"}),
    oracle.line(strings={0: "123456789"}),
    oracle.line(strings={25: "1234567g"}),
    oracle.line(strings={25: "g2345678"}),
    oracle.line(strings={25: "`@G/:?[{"}),
    oracle.line(strings={25: "12345\x106"}),
    oracle.line(strings={25: "\x10\x11\x12\x13\x14\x15\x16\x17"}),
    oracle.line(strings={13: "12 45678"}),
    oracle.line(strings={13: "-1234567"}),
    oracle.line(strings={25: "1234567\r"}),
    oracle.line(strings={4: "\x00" * 8}),
    "\xe9".encode() + oracle.line(),
    b"\xb0\xb1\xff" * 40,
]


def parse(text, num_buckets):
    return Criteo(num_buckets).parse(text)


def agree(block, text):
    ids, dense, labels, bad = oracle.parse(text, BUCKETS)
    assert block.num_bad == len(bad)
    assert [one.line for one in block.bad] == bad[:5]
    assert block.num_lines == len(oracle.lines_of(text))
    found = block.columns["ids"]
    assert found.tolist() == ids and found.dtype == np.int64 and found.shape[1:] == (26,)
    assert block.columns["label"].tolist() == labels and block.columns["label"].dtype == np.float32
    assert block.columns["dense"].dtype == np.float32 and block.columns["dense"].shape[1:] == (13,)
    np.testing.assert_allclose(block.columns["dense"], np.array(dense).reshape(-1, 13), rtol=1e-6, atol=0)


@pytest.mark.parametrize("number", range(len(NASTY)))
def test_each_nasty_line_alone_and_between_good_ones(number):
    good = oracle.line()
    for text in (NASTY[number], NASTY[number] + b"\n", b"\n".join([good, NASTY[number], good])):
        agree(parse(text, BUCKETS), text)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(NASTY), max_size=30), st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_any_mixture(lines, line_end, final):
    text = line_end.join(lines) + (line_end if final else b"")
    agree(parse(text, BUCKETS), text)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_change_of_a_good_line(data):
    text = bytearray(oracle.line())
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    agree(parse(bytes(text), BUCKETS), bytes(text))


def test_pieces_larger_than_the_cache():
    text = b"\n".join([oracle.line("01"[i % 2], {i % 13: str(i)}, {i % 26: f"{i:08x}"}) for i in range(3000)] + NASTY)
    agree(parse(text, BUCKETS), text)


def test_ids_are_what_they_always_were():
    text = oracle.line(strings={0: "68fd1e64", 1: "68fd1e64", 2: "", 25: "80e26c9b"})
    ids = parse(text, 1_000_001).columns["ids"][0]
    assert [int(ids[slot]) for slot in (0, 1, 2, 25)] == GOLDEN_IDS
    assert mixing.mix(np.zeros(1, np.uint64))[0] == 0xE220A8397B1DCDAF  # splitmix64's first number from seed 0


GOLDEN_IDS = [567664, 440461, 2, 38665]


def test_numbers_keep_their_sign_and_blanks_are_zero():
    block = parse(oracle.line(integers={0: "", 1: "-3", 2: "0", 3: "1000000"}), BUCKETS)
    assert block.columns["dense"][0, :4].tolist() == pytest.approx([0, -np.log(4), 0, np.log(1000001)], rel=1e-6)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("num_readers", [0, 2])
def test_files_cut_into_blocks(tmp_path, monkeypatch, zipped, num_readers):
    lines = [oracle.line("01"[i % 2], {1: str(-i)}, {3: f"{i:08x}"}) for i in range(200)]
    lines[77] = b"no sample"
    for part in range(2):
        text = b"\n".join(lines[part * 100 : part * 100 + 100])  # no final line end
        (tmp_path / f"part-{part}").write_bytes(gzip.compress(text) if zipped else text)
    (tmp_path / "_SUCCESS").write_bytes(b"")
    expected = oracle.parse(b"\n".join(lines), BUCKETS)
    for block_bytes in (1, 300, 4096):
        if block_bytes == 1 and num_readers:
            continue  # the same cuts, slowly
        monkeypatch.setattr(source, "BLOCK_BYTES", block_bytes)
        batches = list(criteo.read(tmp_path, batch_size=32, num_buckets=BUCKETS, num_readers=num_readers))
        assert [len(batch["label"]) for batch in batches] == [32] * 6 + [7]
        assert np.concatenate([batch["ids"] for batch in batches]).tolist() == expected[0]
        assert np.concatenate([batch["label"] for batch in batches]).tolist() == expected[2]
