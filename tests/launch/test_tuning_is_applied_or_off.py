"""What ``--tune on`` says in the banner is in force in the trainer; ``off`` leaves everything alone."""

import io
import platform

import pytest

from fleet.launch import devices

LOOK = """
    import os, struct, sys, threading
    tiny = struct.unpack("d", struct.pack("Q", 1))[0]  # the smallest denormal
    seen = []
    t = threading.Thread(target=lambda: seen.append(tiny * 1.0 == 0.0)); t.start(); t.join()
    print(sys.getswitchinterval() < 1e-4, tiny * 1.0 == 0.0, seen[0], os.environ.get("GLIBC_TUNABLES", ""))
"""


def test_on(run):
    done = run(LOOK)
    fast, main, thread, tunables = done.log("trainer-0").strip().split(" ", 3)
    assert fast == "True" and "glibc.malloc.mmap_threshold=1073741824" in tunables
    if platform.machine() == "x86_64":
        assert (main, thread) == ("True", "True")
        assert "malloc thresholds, flush-to-zero, switch interval" in done.err


@pytest.mark.parametrize("flags, own, expected", [((), "", "5"), ((), "4", "4"), (("--tune", "off"), "", "None")])
def test_matrix_products_on_amd(run, monkeypatch, flags, own, expected):
    """MKL is told of AVX2 on AMD processors only, and a user's own value is kept."""
    monkeypatch.delenv("MKL_DEBUG_CPU_TYPE", raising=False)
    done = run("import os\nprint(os.environ.get('MKL_DEBUG_CPU_TYPE'))", *flags, env={"MKL_DEBUG_CPU_TYPE": own} if own else {})
    if expected == "5" and not devices.needs_mkl_told():
        expected = "None"
    assert done.log("trainer-0").split() == [expected]


@pytest.mark.parametrize("vendor, flags, told", [("AuthenticAMD", " avx2 ", True), ("AuthenticAMD", " sse2 ", False),
                                                 ("GenuineIntel", " avx2 ", False)])  # fmt: skip
def test_who_is_told(monkeypatch, vendor, flags, told):
    text = f"processor : 0\nvendor_id : {vendor}\nflags : fpu{flags}x\n\nprocessor : 1\n"
    monkeypatch.setattr("builtins.open", lambda *_: io.StringIO(text))
    assert devices.needs_mkl_told() is told


@pytest.mark.parametrize("how", ["flag", "variable", "file"])
def test_off(run, tmp_path, how):
    (tmp_path / "f.yaml").write_text("launch:\n  tune: off\n")
    flags = {"flag": ["--tune", "off"], "variable": [], "file": ["-c", "f.yaml"]}[how]
    done = run(LOOK, *flags, env={"FLEET_TUNE": "off"} if how == "variable" else {})
    assert done.log("trainer-0").split() == ["False", "False", "False"]
    assert "tuning: off" in done.err


def test_users_own_tunables_stay(run):
    own = "glibc.malloc.arena_max=2:glibc.malloc.mmap_threshold=65536"
    tunables = run(LOOK, env={"GLIBC_TUNABLES": own}).log("trainer-0").split()[-1]
    assert tunables == own + ":glibc.malloc.trim_threshold=2147483648"
