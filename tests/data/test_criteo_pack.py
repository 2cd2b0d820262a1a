"""A pack holds what the text says, and a kill or a full disk while it is made leaves the one before."""

import json
import os
import signal
import subprocess
import sys
import time

import criteo_oracle as oracle
import numpy as np
import pytest

from fleet.data import criteo
from fleet.errors import ConfigError

BUCKETS = 1009


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(b"\n".join([oracle.line("01"[i % 2], {0: str(i)}) for i in range(500)] + [b"bad"]))
    return path


def test_a_pack_holds_what_the_text_says(text, tmp_path):
    meta = criteo.pack(text, tmp_path / "pack", num_buckets=BUCKETS)
    assert (meta["num_samples"], meta["num_lines"], meta["num_bad_lines"], meta["num_buckets"]) == (500, 501, 1, BUCKETS)
    assert meta["sources"] == [{"path": str(text), "bytes": text.stat().st_size}] and meta == criteo.read_meta(tmp_path / "pack")
    ids, dense, labels, _ = oracle.parse(text.read_bytes(), BUCKETS)
    arrays = criteo.open_pack(tmp_path / "pack", BUCKETS)
    assert arrays["ids"].tolist() == ids and arrays["label"].tolist() == labels
    np.testing.assert_allclose(arrays["dense"], dense, rtol=1e-6)
    assert [arrays[name].dtype.str for name in ("ids", "dense", "label")] == ["<i8", "<f4", "<f4"]
    for name, file in meta["arrays"].items():  # plain .npy files that NumPy reads by itself
        np.testing.assert_array_equal(np.load(tmp_path / "pack" / file), arrays[name])
    with pytest.raises(ValueError, match="read-only"):
        arrays["ids"][0] = 0


def test_packing_again_replaces_it_and_who_has_it_mapped_keeps_it(text, tmp_path):
    criteo.pack(text, tmp_path / "pack", num_buckets=BUCKETS)
    old = criteo.open_pack(tmp_path / "pack")
    before = old["ids"].copy()
    criteo.pack(text, tmp_path / "pack", num_buckets=2 * BUCKETS)
    np.testing.assert_array_equal(old["ids"], before)
    assert criteo.open_pack(tmp_path / "pack")["ids"].max() > BUCKETS
    assert len(list((tmp_path / "pack").glob("*.npy"))) == 3


FULL_DISK = """
import resource, signal, sys
from fleet.data import criteo
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
criteo.pack(sys.argv[1], sys.argv[2], num_buckets=2018)
"""
KILLED = """
import sys, time
from fleet.data import criteo
from fleet.data.criteo import cache
real = cache._flush
def flush(file):
    real(file)
    print("written", flush=True)
    time.sleep(60)
cache._flush = flush
criteo.pack(sys.argv[1], sys.argv[2], num_buckets=2018)
"""


@pytest.mark.parametrize("trouble", ["full disk", "kill", "bad text"])
def test_trouble_leaves_the_pack_before(text, tmp_path, trouble):
    out = tmp_path / "pack"
    criteo.pack(text, out, num_buckets=BUCKETS)
    before = {name: array.copy() for name, array in criteo.open_pack(out).items()}
    if trouble == "bad text":
        text.write_bytes(b"none\n" * 200)
        with pytest.raises(ConfigError, match="max_bad_lines"):
            criteo.pack(text, out, num_buckets=2018)
    elif trouble == "full disk":
        done = subprocess.run([sys.executable, "-c", FULL_DISK, text, out], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "cannot write the pack: File too large" in done.stderr
    else:
        process = subprocess.Popen([sys.executable, "-c", KILLED, text, out], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert len(list(out.glob("*.npy"))) == 6, "the killed one's files lie there"
    for name, array in criteo.open_pack(out, BUCKETS).items():
        np.testing.assert_array_equal(array, before[name])
    if trouble != "bad text":
        criteo.pack(text, out, num_buckets=2018)
        assert criteo.open_pack(out, 2018)["ids"].shape == (500, 26)
    assert sorted(p.name.split("-")[0] for p in out.iterdir()) == [".lock", "dense", "ids", "label", "meta.json"]


def test_two_that_pack_at_once_both_succeed(text, tmp_path):
    command = [sys.executable, "-m", "fleet.data.criteo", "pack", text, tmp_path / "pack", "--num_buckets", str(BUCKETS)]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [one.wait(timeout=60) for one in both] == [0, 0]
    assert criteo.open_pack(tmp_path / "pack", BUCKETS)["ids"].shape == (500, 26)
    assert len(list((tmp_path / "pack").glob("*.npy"))) == 3


def damage(out, how):
    ids = out / criteo.read_meta(out)["arrays"]["ids"]
    meta = json.loads((out / "meta.json").read_text())
    if how == "cut off":
        os.truncate(ids, 5000)
    elif how == "missing":
        ids.unlink()
    elif how == "foreign header":
        with open(ids, "r+b") as file:
            file.write(b"\x93NUMPY\x02")
    elif how == "not JSON":
        (out / "meta.json").write_text("{")
    else:
        meta |= {"format": "another"} if how == "not a pack" else {"hash": "md5"}
        (out / "meta.json").write_text(json.dumps(meta))


@pytest.mark.parametrize("how", ["cut off", "missing", "foreign header", "not JSON", "not a pack", "md5"])
def test_a_damaged_or_foreign_pack_is_refused(text, tmp_path, how):
    out = tmp_path / "pack"
    criteo.pack(text, out, num_buckets=BUCKETS)
    damage(out, how)
    with pytest.raises(ConfigError, match=how) as caught:
        criteo.open_pack(out)
    assert str(out) in caught.value.at and "pack IN OUT" in caught.value.fix


def test_what_is_no_pack_is_refused_and_left_alone(text, tmp_path):
    with pytest.raises(ConfigError, match="no pack here"):
        criteo.open_pack(tmp_path / "nowhere")
    criteo.pack(text, tmp_path / "pack", num_buckets=BUCKETS)
    with pytest.raises(ConfigError, match=f"num_buckets={BUCKETS}, not 7"):
        criteo.open_pack(tmp_path / "pack", 7)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "meta.json").write_text('{"mine": 1}')
    with pytest.raises(ConfigError, match="not a pack"):
        criteo.pack(text, tmp_path / "mine", num_buckets=BUCKETS)
    assert (tmp_path / "mine" / "meta.json").read_text() == '{"mine": 1}'
    with pytest.raises(ConfigError, match="cannot write here"):
        criteo.pack(text, text, num_buckets=BUCKETS)


def test_the_lock_lets_one_in_at_a_time(tmp_path):
    code = "import sys; from fleet.data import criteo\nwith criteo.locked(sys.argv[1]): print('in', flush=True)"
    with criteo.locked(tmp_path):
        other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
        time.sleep(0.5)
        assert other.poll() is None
    assert other.communicate(timeout=60)[0] == b"in\n" and other.returncode == 0
