"""Ctrl-C, TERM and HUP in every phase; the grace period; a second Ctrl-C."""

import os
import signal
import time

import pytest
from kill_harness import survivors_after

SAVES = """
    import os, signal, sys, time
    def save(*_):
        time.sleep(0.2); print("saved", flush=True); sys.exit(0)
    signal.signal(signal.SIGTERM, save)
    print("up", flush=True); time.sleep(60)
"""
DEAF = """
    import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()  # leaves the group
        if os.fork() == 0:
            print("grandchild", flush=True)
    else:
        print("up", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_once_gives_time_to_save(start, number):
    run = start(SAVES, "--nproc_per_node", "2")
    run.until("up", log="trainer-0")
    run.until("up", log="trainer-1")
    os.kill(run.process.pid, number)
    assert run.wait() == 128 + number
    assert "saved" in run.log("trainer-0") and "saved" in run.log("trainer-1") and number.name in run.err
    assert "failed first" not in run.err and survivors_after(run, 0) == []


def test_who_ignores_term_is_killed_after_the_grace_period(start):
    run = start(DEAF, "--nproc_per_node", "2", "--grace", "0.3")
    run.until("grandchild", log="trainer-1")
    begun = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130 and time.monotonic() - begun > 0.3
    assert survivors_after(run, 0) == []


def test_a_second_ctrl_c_gives_no_grace(start):
    run = start(DEAF, "--nproc_per_node", "2", "--grace", "60")
    run.until("grandchild", log="trainer-0")
    run.until("grandchild", log="trainer-1")
    run.process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert run.process.poll() is None
    run.process.send_signal(signal.SIGINT)
    assert run.wait(5) == 130 and survivors_after(run, 0) == []


def test_term_goes_to_the_training_process_alone_first(start):
    run = start("""
        import os, signal, sys, time
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, lambda *_: print("worker was told", flush=True))
            print("up", flush=True)
            while True: time.sleep(1)
        signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), print("saved with its worker", flush=True), os._exit(0)))
        while True: time.sleep(1)
    """)
    run.until("up")
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 143
    assert run.log("trainer-0").index("saved with its worker") < run.log("trainer-0").index("worker was told")


def test_a_failure_ends_deaf_processes_after_the_grace_period(run):
    done = run("""
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.environ["RANK"] == "1":
            time.sleep(0.3); raise ValueError("cause")
        time.sleep(60)
    """, "--nproc_per_node", "2", "--grace", "0.2")  # fmt: skip
    assert done.status == 1 and "trainer 1 failed first" in done.err and "1 other process was stopped" in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.04, 0.06, 0.09, 0.15])
def test_in_every_phase(start, after_s, number, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    run = start("import time; time.sleep(60)", "--nproc_per_node", "2")
    time.sleep(after_s)
    run.process.send_signal(number)
    status = run.wait(10)
    assert status == 128 + number or (status == 1 and not run.err.startswith("fleet ")), run.err  # 1: Python itself was starting
    assert survivors_after(run, 0) == [] and not list(tmp_path.glob("fleet-*"))
