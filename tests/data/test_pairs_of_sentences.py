"""WMT's files as pairs of sentences: two files line by line or one with tabs, plain or gzipped."""

from __future__ import annotations

import gzip

import pytest

from fleet.data import ParallelText
from fleet.errors import ConfigError

GERMAN = ["Das ist gut .", "", "Wiederaufnahme der Sitzungsperiode", "Er sagte:\u2028ja .", "Nein", "ein zwei drei vier"]
ENGLISH = ["That is good .", "nothing", "Resumption of the session", "He said yes .", "no " * 30, "one"]


@pytest.fixture(params=["plain", "gzipped"])
def written(request, tmp_path):
    def write(name, lines):
        data = "".join(line + "\n" for line in lines).encode()
        path = tmp_path / (name + (".gz" if request.param == "gzipped" else ""))
        path.write_bytes(gzip.compress(data) if request.param == "gzipped" else data)
        return path

    return write


def test_two_files_line_by_line(written):
    german, english = written("europarl-v7.de-en.de", GERMAN), written("europarl-v7.de-en.en", ENGLISH)
    found = ParallelText.pair(german, english)
    assert found.num_samples == 5 and found.source == [GERMAN[i] for i in (0, 2, 3, 4, 5)]
    assert found.target[1] == "Resumption of the session" and found.target[2] == "He said yes ."
    cleaned = ParallelText.pair(german, english, max_words=10, max_ratio=3)
    assert cleaned.source == [GERMAN[i] for i in (0, 2, 3)]


def test_one_file_with_tabs(written):
    path = written("corpus.tsv", [f"0.9\t{a}\t{b}" for a, b in zip(GERMAN, ENGLISH, strict=True)])
    assert ParallelText.tsv(path, columns=(2, 1)).source[0] == "That is good ."
    with pytest.raises(ConfigError, match="3 columns, and column 3") as raised:
        ParallelText.tsv(path, columns=(0, 3))
    assert raised.value.at == f"{path}:1"


def test_bad_input(written, tmp_path):
    german = written("a.de", GERMAN)
    with pytest.raises(ConfigError, match=r"number of lines: .*a\.de.* 6 and .*a\.en.* 2"):
        ParallelText.pair(german, written("a.en", ENGLISH[:2]))
    with pytest.raises(ConfigError, match="no pair"):
        ParallelText.pair(written("e.de", ["", ""]), written("e.en", ["x", ""]))
    with pytest.raises(ConfigError, match="cannot be read"):
        ParallelText.pair(tmp_path / "nowhere.de", german)
    (tmp_path / "latin.de").write_bytes(b"gut\nsch\xf6n\n")
    with pytest.raises(ConfigError, match="not UTF-8") as raised:
        ParallelText.pair(tmp_path / "latin.de", tmp_path / "latin.de")
    assert raised.value.at.endswith("latin.de:2")
    with pytest.raises(ConfigError):
        ParallelText.pair(german, german, max_words=-1)
