"""A value of the caller's environment appears in no file of the run; nor does the job's secret, anywhere but in the environment."""

import pathlib


def test_canary(run, tmp_path):
    canary = "canary-" + "0815" * 4
    done = run("""
        import os, sys, pathlib
        (pathlib.Path(os.environ["HOME_OF_TEST"]) / "secret-of-test").write_text(os.environ["FLEET_SECRET"])
        commands = b"".join(p.read_bytes() for p in pathlib.Path("/proc").glob("[0-9]*/cmdline"))
        assert os.environ["FLEET_SECRET"].encode() not in commands
        raise RuntimeError("fails, so that all reports are written")
    """, "--nproc_per_node", "2", env={"MY_TOKEN": canary, "HOME_OF_TEST": str(tmp_path)})  # fmt: skip
    assert done.status == 1 and "RuntimeError: fails" in done.err, done.err
    secret = (tmp_path / "secret-of-test").read_text()
    assert len(secret) == 64
    (tmp_path / "secret-of-test").unlink()
    files = [p for p in pathlib.Path(tmp_path).rglob("*") if p.is_file()]
    names = {p.name for p in files}
    assert {"run_id", "trainer-0.log"} <= names and any(n.endswith(".failure.json") for n in names)
    for path in files:
        assert canary.encode() not in path.read_bytes() and secret.encode() not in path.read_bytes(), path
