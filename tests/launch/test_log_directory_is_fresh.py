"""One directory per run: --log_dir itself if new or empty, else a fresh one in it; never mixed with an older run's."""

import os

import kill_harness


def test_default_is_below_fleet_runs(run, tmp_path):
    done = run("print(1)")
    assert done.log_dir.parent == tmp_path / "fleet_runs" and done.log_dir.name == done.run_id
    assert f"logs fleet_runs/{done.run_id}" in done.err


def test_new_then_used(tmp_path):
    (tmp_path / "train.py").write_text("print('hello')")
    for _ in range(2):
        assert kill_harness.start(["--log_dir", "a/b", "train.py"], tmp_path).wait() == 0
    inside = sorted(p.name for p in (tmp_path / "a/b").iterdir())
    assert {"run_id", "trainer-0.log"} < set(inside) and len(inside) == 3
    fresh = next(p for p in (tmp_path / "a/b").iterdir() if p.is_dir())
    assert (fresh / "trainer-0.log").read_text() == "hello\n"


def test_not_empty_is_left_as_it_is(run, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "trainer-0.log").write_text("of old")
    done = run("print('new')", "--log_dir", "logs")
    assert (tmp_path / "logs" / "trainer-0.log").read_text() == "of old" and done.log("trainer-0") == "new\n"


def test_a_log_directory_removed_while_it_runs(run):
    done = run("import os, shutil; shutil.rmtree(os.environ['FLEET_LOG_DIR']); print('still', flush=True); raise ValueError('x')")
    assert done.status == 1 and "still" in done.out and "trainer 0 failed first" in done.err


def test_no_more_processes_or_files_can_be_had(tmp_path):
    """The limit of open files is reached half way: what was started is ended, and the error says what could not be."""
    (tmp_path / "train.py").write_text("import time; time.sleep(60)")
    (tmp_path / "limited.py").write_text(
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "from fleet.launch.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    run = kill_harness.start(["--nproc_per_node", "14", "train.py"], tmp_path, command=("limited.py",))
    assert (
        run.wait() == 1 and "cannot start trainer" in run.err and "Too many open files" in run.err and "Traceback" not in run.err
    ), run.err
    assert kill_harness.survivors_after(run, 0) == []
    assert os.listdir(run.log_dir)
