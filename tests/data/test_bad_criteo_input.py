"""Bad input ends in seconds, with the file, the line and a remedy; a few bad lines are counted and shown."""

import gzip
import os
import subprocess
import sys

import criteo_oracle as oracle
import pytest

from fleet.data import criteo
from fleet.data.bad_lines import LineCount
from fleet.data.criteo.batches import blocks
from fleet.errors import ConfigError

GOOD = oracle.line() + b"\n"


def read(path, **more):
    return list(criteo.read(path, batch_size=8, num_buckets=100, **more))


def refused(path, says, **more):
    with pytest.raises(ConfigError, match=says) as caught:
        read(path, **more)
    assert caught.value.at and caught.value.fix
    return caught.value


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.txt").touch()
    assert refused(tmp_path / "empty.txt", "empty").at.endswith("empty.txt")


# Named, because gzip writes the time into its header: two processes would collect two lists of tests.
@pytest.mark.parametrize("content", [b"\n" * 9, gzip.compress(b"")], ids=["newlines", "empty gzip"])
def test_a_file_without_one_sample(tmp_path, content):
    (tmp_path / "none.txt").write_bytes(content)
    refused(tmp_path / "none.txt", "not one sample")


def test_an_empty_directory_and_one_of_directories(tmp_path):
    refused(tmp_path, "no data files")
    (tmp_path / "train").mkdir()
    refused(tmp_path, "it holds train/")


def test_an_empty_part_among_others_is_no_fault(tmp_path):
    (tmp_path / "a").write_bytes(GOOD)
    (tmp_path / "b").touch()
    assert sum(len(batch["label"]) for batch in read(tmp_path)) == 1


def test_a_missing_file(tmp_path):
    refused(tmp_path / "nowhere", "no such data file")
    refused([], "no data files were given")


@pytest.mark.parametrize("num_readers", [0, 2])
def test_a_file_of_another_format(tmp_path, num_readers):
    (tmp_path / "log.txt").write_bytes(b"2024-01-01 hello\n" * 500)
    error = refused(tmp_path / "log.txt", "max_bad_lines=100; the first one: not 40 fields", num_readers=num_readers)
    assert error.at.endswith("log.txt:1")


def test_no_line_ends_at_all(tmp_path):
    (tmp_path / "weights.bin").write_bytes(bytes(range(11, 256)) * 30000)
    refused(tmp_path / "weights.bin", "longer than")


@pytest.mark.parametrize("damage", ["cut", "flipped"])
@pytest.mark.parametrize("num_readers", [0, 1])
def test_a_damaged_gzip_file(tmp_path, damage, num_readers):
    lines = b"\n".join(oracle.line(integers={0: str(i)}) for i in range(500))
    content = bytearray(gzip.compress(lines))
    if damage == "cut":
        del content[-100:]
    else:
        content[len(content) // 2] ^= 0x55
    (tmp_path / "part.gz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"gzipped data file cannot be read|max_bad_lines") as caught:
        read(tmp_path / "part.gz", num_readers=num_readers)
    assert "part.gz" in caught.value.at


@pytest.mark.parametrize("num_readers", [0, 2])
def test_bad_lines_are_counted_and_shown_with_their_place(tmp_path, caplog, monkeypatch, num_readers):
    monkeypatch.setattr("fleet.data.source.BLOCK_BYTES", 1000)
    lines = [GOOD] * 40
    for number in (3, 17, 18, 39):
        lines[number] = oracle.line("7") + b"\n"
    (tmp_path / "a.txt").write_bytes(b"".join(lines))
    (tmp_path / "b.txt").write_bytes(GOOD * 5 + b"short\n")
    count = LineCount(5, "Criteo")
    kept = sum(len(block["label"]) for block in blocks(tmp_path, 100, num_readers, count))
    assert (kept, count.num_lines, count.num_bad, count.num_samples) == (41, 46, 5, 41)
    for place in ("a.txt:4", "a.txt:18", "a.txt:19", "a.txt:40", "b.txt:6"):
        assert f"{place}: left out" in caplog.text
    assert "5 of 46 lines" in caplog.text
    assert refused(tmp_path, "5 of the first", max_bad_lines=4, num_readers=num_readers).at.endswith("a.txt:4")


@pytest.mark.parametrize("wrong", [{"num_buckets": 26}, {"num_buckets": 2**63}, {"batch_size": 0}, {"num_readers": -1}])
def test_wrong_numbers(tmp_path, wrong):
    (tmp_path / "a.txt").write_bytes(GOOD)
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        list(criteo.read(tmp_path, **{"batch_size": 8, "num_buckets": 100, **wrong}))


def test_readers_end_when_the_reading_is_left_early(tmp_path):
    (tmp_path / "a.txt").write_bytes(GOOD * 100)
    before = children()
    batches = criteo.read(tmp_path, batch_size=8, num_buckets=100, num_readers=2)
    next(batches)
    assert len(children() - before) == 2
    batches.close()
    assert children() <= before


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return set(file.read().split())


def test_the_command_line_says_what_is_wrong(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "fleet.data.criteo", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    (tmp_path / "empty").touch()
    failed = run("pack", tmp_path / "empty", tmp_path / "out")
    assert failed.returncode == 1 and "the data file is empty" in failed.stderr and "fix:" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert run("pak").returncode == run("pack", "a", "b", "--num_bucket", "9").returncode == 64
