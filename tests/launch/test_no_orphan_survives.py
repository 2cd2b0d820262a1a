"""However the launcher ends, every process of the run is gone, forked grandchildren included, and so is the socket directory."""

import os
import random
import signal
import time

import kill_harness
import pytest
from kill_harness import keeper_of, survivors_after

STUBBORN = """
    import os, signal, subprocess, sys, time
    for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(n, signal.SIG_IGN)
    print("socket dir", os.environ["FLEET_SOCKET_DIR"], flush=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            print("grandchild", flush=True)
            time.sleep(60)
    subprocess.Popen(["sleep", "60"], env={})  # clears its environment
    time.sleep(60)
"""


def is_running(command: str, session: int) -> bool:
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/stat") as file:
                text = file.read()
        except OSError:
            continue
        if (
            f"({command})" in text
            and int(text.rpartition(")")[2].split()[3]) == session
            and text.rpartition(")")[2].split()[0] != "Z"
        ):
            return True
    return False


def test_kill_9_of_the_launcher(start):
    run = start(STUBBORN, "--nproc_per_node", "2", "--server_num", "1", server=STUBBORN)
    for log in ("trainer-0", "trainer-1", "server-0"):
        run.until("grandchild", log=log)
    socket_dir = run.log("trainer-0").split("socket dir ")[1].split()[0]
    sessions = [kill_harness.pid_of(run, name) for name in ("trainer 0", "trainer 1", "server 0")]
    assert all(kill_harness.wait_for(lambda s=s: is_running("sleep", s), 5) for s in sessions)
    os.kill(run.process.pid, signal.SIGKILL)
    assert run.wait() == 137
    assert survivors_after(run, 2.0) == []
    assert not any(is_running("sleep", s) for s in sessions)
    assert kill_harness.wait_for(lambda: not os.path.exists(socket_dir), 1)


def test_stop_then_kill_9_of_the_launcher(start):
    run = start(STUBBORN, "--nproc_per_node", "2")
    run.until("grandchild", log="trainer-1")
    os.kill(run.process.pid, signal.SIGSTOP)
    time.sleep(0.1)
    os.kill(run.process.pid, signal.SIGKILL)
    run.wait()
    assert survivors_after(run, 2.0) == []


def test_what_a_good_run_leaves_behind_is_ended(run):
    done = run("""
        import os, subprocess, time
        subprocess.Popen(["sleep", "60"])
        if os.fork() == 0:
            os.setsid(); time.sleep(60)
    """, "--nproc_per_node", "2")  # fmt: skip
    assert done.status == 0 and survivors_after(done, 0) == []


def test_a_killed_keeper_is_replaced(start):
    run = start(STUBBORN, "--nproc_per_node", "1")
    run.until("grandchild")
    first = keeper_of(run)
    assert first is not None
    os.kill(first, signal.SIGTERM)  # a keeper is deaf to this
    time.sleep(0.1)
    assert keeper_of(run) == first
    os.kill(first, signal.SIGKILL)
    assert kill_harness.wait_for(lambda: keeper_of(run) not in (None, first), 5)
    assert kill_harness.wait_for(lambda: "somebody ended the keeper" in run.err, 5)
    os.kill(run.process.pid, signal.SIGKILL)
    run.wait()
    assert survivors_after(run, 2.0) == []


def test_other_runs_are_left_alone(start, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "train.py").write_text("import time; print('up', flush=True); time.sleep(60)")
    second = kill_harness.start(["train.py"], other)
    second.until("up")
    first = kill_harness.start(["--log_dir", "logs-of-first", "other/train.py"], tmp_path)
    time.sleep(0.4)
    os.kill(first.process.pid, signal.SIGKILL)
    first.wait()
    time.sleep(0.3)
    assert kill_harness.pid_of(second, "trainer 0") is not None
    second.process.send_signal(signal.SIGINT)
    assert second.wait() == 130


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fifty_kills_at_random_moments(tmp_path):
    """Launcher, trainer or server, at any moment from the start: nothing is left within 2 s and the cause is named."""
    rng = random.Random(20261121)
    (tmp_path / "server.py").write_text("import time; time.sleep(60)")
    (tmp_path / "driver.py").write_text(_driver())
    wrong = []
    for i in range(50):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "train.py").write_text(FORKS)
        (folder / "driver.py").write_text(_driver())
        victim = rng.choice(["launcher", "trainer 0", "trainer 1", "server 0"])
        moment_s = rng.uniform(0.0, 0.5)
        flags = ["--server_num", "1", "--trainer_num", "2", "train.py"]
        run = kill_harness.start([str(tmp_path / "server.py"), *flags], folder, {"TMPDIR": str(folder)}, ("driver.py",))
        hit = kill_harness.kill(run, victim, moment_s)
        run.wait()
        left = survivors_after(run, 2.0)
        named = victim == "launcher" or (f"{victim} failed first" in run.err and "SIGKILL" in run.err)
        sockets = list(folder.glob("fleet-*"))
        if not hit or left or run.status != 137 or not named or sockets:
            wrong.append((i, victim, moment_s, hit, left, run.status, sockets, run.err[-500:]))
    assert not wrong, wrong


FORKS = """
import os, time
if os.fork() == 0:
    os.setsid()
time.sleep(60)
"""


def _driver() -> str:
    return kill_harness.DRIVER
