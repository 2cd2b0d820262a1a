"""--dry_run prints processes and variables; the secret and the caller's values are not in it."""


def test_it(run, tmp_path):
    done = run("open('ran', 'w')", "--dry_run", "--server_num", "1", "--trainer_num", "2", env={"MY_TOKEN": "canary-4711"})
    assert done.status == 0
    assert "trainer 1:" in done.out and "server 0:" in done.out and "  RANK=1\n" in done.out
    assert "FLEET_SECRET=(not shown)" in done.out and "canary-4711" not in done.out + done.err and "MY_TOKEN" not in done.out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stderr", "stdout", "train.py"]
