"""Rank 0 live, warnings and errors of all, equal lines folded, progress lines redrawn; nothing that was written is lost."""

import os
import pty
import signal
import subprocess
import sys
import textwrap
import time

import kill_harness
import pytest

MEET = """
    import os, time
    d, n = os.environ["FLEET_SOCKET_DIR"], int(os.environ["WORLD_SIZE"])
    open(d + "/at-" + os.environ["RANK"], "w").close()
    while sum(f.startswith("at-") for f in os.listdir(d)) < n:
        time.sleep(0.001)
"""
TALK = (
    MEET
    + """
    print("common line"); print("own line", os.environ["RANK"])
"""
)


@pytest.mark.parametrize("flags, expected", [
    ([], ["common line", "own line 0"]),
    (["--show", "none"], []),
    (["--show", "2"], ["common line", "own line 2"]),
    (["--show", "0,2"], ["trainers 0,2: common line  [x2]", "trainer 0: own line 0", "trainer 2: own line 2"]),
    (["--show=all"],
     ["trainers 0-2: common line  [x3]", "trainer 0: own line 0", "trainer 1: own line 1", "trainer 2: own line 2"]),
])  # fmt: skip
def test_show(run, flags, expected):
    done = run(TALK, "--nproc_per_node", "3", *flags)
    assert sorted(done.out.splitlines()) == sorted(expected)


def test_warnings_and_errors_of_any_rank(run):
    done = run(textwrap.dedent(MEET) + textwrap.dedent("""
        import os, sys, warnings
        print("quiet"); print("epoch loss error 0.2")
        if os.environ["RANK"] != "0":
            warnings.warn("careful")
            print("fleet: WARNING: all of us", file=sys.stderr)
            print("W1121 03:44:00.123 77 allocator.cc:12] short of memory", file=sys.stderr)
        if os.environ["RANK"] == "3":
            print("ERROR only me", file=sys.stderr)
    """), "--nproc_per_node", "4")  # fmt: skip
    assert done.out == "quiet\nepoch loss error 0.2\n"
    assert "trainers 1-3: fleet: WARNING: all of us  [x3]\n" in done.err and "trainer 3: ERROR only me\n" in done.err
    assert "UserWarning: careful  [x3]" in done.err and "allocator.cc:12" in done.err and "quiet" not in done.err


def test_a_process_keeps_the_order_of_its_lines(run):
    done = run("""
        import os
        for i in range(200):
            print(["a", "b"][(i + int(os.environ["RANK"])) % 2], i // 2)
    """, "--nproc_per_node", "2", "--show", "all")  # fmt: skip
    for rank in (0, 1):
        mine = [line.split(": ")[1].removesuffix("  [x2]") for line in done.out.splitlines()
                if line.startswith((f"trainer {rank}:", "trainers 0-1:"))]  # fmt: skip
        assert mine == done.log(f"trainer-{rank}").splitlines()


def test_no_tail_is_lost(run):
    done = run("""
        import os
        for i in range(30000):
            os.write(1, b"%06d %s\\n" % (i, b"x" * 60))
        os.write(1, b"the end, without a newline")
        os._exit(0)
    """)
    lines = done.out.splitlines()
    assert len(lines) == 30001 and lines[-1] == "the end, without a newline" and lines[29999].startswith("029999")


def test_bytes_that_are_no_text_pass(run, tmp_path):
    run("import os; os.write(1, bytes(range(128, 256)) + b'\\n')")
    assert (tmp_path / "stdout").read_bytes() == bytes(range(128, 256)) + b"\n"


PROGRESS = (
    MEET
    + """
    import os, sys, time
    print("FLEET_PROGRESS", os.environ["FLEET_PROGRESS"])
    for i in range(5):
        sys.stderr.write(f"\\r{i * 25}% done"); sys.stderr.flush(); time.sleep(0.08)
    sys.stderr.write("\\n")
    print("finished")
"""
)


def test_progress_lines_show_their_last_state_where_they_cannot_be_redrawn(run):
    assert run(PROGRESS).out.splitlines() == ["FLEET_PROGRESS 0", "100% done", "finished"]


def test_progress_of_several(run):
    assert run(PROGRESS, "--nproc_per_node", "2", "--show", "all").out.splitlines()[1] == "trainers 0-1: 100% done  [x2]"


def on_terminal(tmp_path, script, *flags):
    (tmp_path / "train.py").write_text(textwrap.dedent(script))
    master, slave = pty.openpty()
    environ = {**os.environ, "PYTHONPATH": str(kill_harness.ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "fleet.launch", *flags, "train.py"], cwd=tmp_path, env=environ,
                               stdin=slave, stdout=slave, stderr=slave, start_new_session=True)  # fmt: skip
    os.close(slave)
    data = b""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # EIO: all have closed it
            break
        data += chunk
    os.close(master)
    assert process.wait(10) == 0
    return data.decode()


def test_progress_lines_are_redrawn_on_a_terminal(tmp_path):
    text = on_terminal(tmp_path, PROGRESS)
    assert "FLEET_PROGRESS 80" in text  # the fallback for a pseudo terminal without a size
    assert "\r0% done\r25% done\r50% done\r75% done\r100% done\r\nfinished" in text  # the terminal makes \n a \r\n


def test_a_warning_does_not_tear_a_progress_line(tmp_path):
    text = on_terminal(tmp_path, """
        import os, sys, time
        if os.environ["RANK"] == "1":
            time.sleep(0.3); print("WARNING: hot", flush=True); time.sleep(0.6)
        else:
            sys.stderr.write("\\r40% done"); time.sleep(1.0); sys.stderr.write("\\r100% done\\n")
    """, "--nproc_per_node", "2")  # fmt: skip
    assert "\r40% done\r\x1b[Ktrainer 1: WARNING: hot\r\n40% done\r100% done\r\n" in text


def test_a_console_that_goes_away_does_not_end_the_run(tmp_path):
    (tmp_path / "train.py").write_text(
        "import time\nfor i in range(30): print('line', i, flush=True); time.sleep(0.01)\nopen('ended', 'w')"
    )
    command = f"{sys.executable} -m fleet.launch train.py 2> err | head -n 1"
    subprocess.run(
        command, shell=True, cwd=tmp_path, timeout=20, check=True, env={**os.environ, "PYTHONPATH": str(kill_harness.ROOT)}
    )
    assert kill_harness.wait_for((tmp_path / "ended").exists, 10)


def test_a_console_that_takes_nothing_does_not_stop_the_watch(tmp_path):
    """Nobody reads the pipe: a failure still ends the run's processes at once; the launcher waits with its text."""
    (tmp_path / "train.py").write_text(
        "import os, time\nif os.environ['RANK'] == '0':\n  while True: os.write(1, b'y' * 999 + b'\\n'); time.sleep(0.0001)\n"
        "time.sleep(0.8); 1 / 0\n"
    )
    read, write = os.pipe()
    environ = {**os.environ, "PYTHONPATH": str(kill_harness.ROOT)}
    with open(tmp_path / "stderr", "wb") as err:
        command = [sys.executable, "-m", "fleet.launch", "--nproc_per_node", "2", "train.py"]
        process = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=write, stderr=err, start_new_session=True)
    os.close(write)
    run = kill_harness.Run(process, tmp_path)
    try:
        run.until("ZeroDivisionError", log="trainer-1")
        assert kill_harness.wait_for(lambda: not kill_harness.processes_of(run.run_id), 5)
    finally:
        process.send_signal(signal.SIGINT)  # gives up on the console that is stuck
        process.wait(10)
        os.close(read)
    assert process.returncode == 1


def test_a_warning_that_one_process_repeats_is_counted(run) -> None:  # type: ignore[no-untyped-def]
    done = run(
        """
        import os
        if os.environ["FLEET_RANK"] == "1":
            for i in range(5000):
                print("WARNING: the same again")
            print("ERROR: another one")
            print("ERROR: another one")
        """,
        "--nproc_per_node",
        "2",
    )
    assert done.status == 0
    assert done.err.count("WARNING: the same again") == 3
    assert "trainer 1: the line before came 4997 times more" in done.err
    assert done.err.count("ERROR: another one") == 2 and "2 times more" not in done.err
