"""--server_restarts and --trainer_restarts: what is started again, when it is given up, and how that is reported.

Scripts without Paddle: they keep their position file as a trainer does.
"""

import json
import os
import signal
import time

import pytest
from kill_harness import kill, pid_of, survivors_after, wait_for

TRAIN = """
    import os, sys, time
    from fleet import recovery
    mine = recovery.of(os.environ["FLEET_LOG_DIR"], int(os.environ["RANK"]))
    rejoins = " rejoins" if mine.rejoins else ""
    print(f"life begins at {mine.place.taken}{rejoins}", flush=True)
    def steps(n):
        for _ in range(n):
            mine.stepped()
            mine.note({"step": mine._taken})
            time.sleep(0.01)
"""
SERVER = """
    import os, time
    print("server up", os.environ.get("FLEET_REJOIN", ""), flush=True)
    time.sleep(60)
"""
PLAN = """
    if os.environ["RANK"] == "0":
        mine.plan({changes})
"""


def plan(**changes):
    return PLAN.format(changes=", ".join(f"{k}={v!r}" for k, v in changes.items()))


def test_all_begin_again_together(start):
    script = TRAIN + "    steps(5 if mine.place.taken else 1000)\n    print('trained')"
    run = start(script, "--server_num", "1", "--trainer_num", "2", "--server_restarts", "2", server=SERVER)
    run.until("life begins", log="trainer-1")
    time.sleep(0.1)
    assert kill(run, "server 0", 0)
    assert run.wait() == 0, run.err
    assert run.log("server-0").count("server up") == 2 and "restart 1 of 2: server 0 was lost" in run.log("server-0")
    assert run.log("trainer-1").count("life begins") == 2 and run.log("trainer-1").count("trained") == 1
    says = "server 0: ended by SIGKILL; restart 1 of 2: all processes started again"
    assert run.err.count(says) == 2, run.err  # then, and at the end
    assert "on_server_loss is rollback" in run.err


def test_only_the_server_where_the_job_carries_on(start):
    run = start(TRAIN + plan(on_server_loss="carry_on", uploaded=False) + "    steps(100)", "--server_num", "2", "--trainer_num",
                "2", "--server_restarts", "2", server=SERVER)  # fmt: skip
    run.until("life begins", log="trainer-1")
    assert wait_for(lambda: (run.log_dir / "recovery.json").exists(), 5)
    assert kill(run, "server 1", 0.1)
    assert run.wait() == 0, run.err
    assert run.log("server-1").count("server up") == 2 and "server up 1" in run.log("server-1")
    assert run.log("server-0").count("server up") == 1 and run.log("trainer-0").count("life begins") == 1
    assert "server 1 alone started again (on_server_loss is carry_on)" in run.err


def test_uploaded_rows_that_no_checkpoint_holds_are_not_forgotten(start):
    run = start(TRAIN + plan(on_server_loss="carry_on") + "    steps(5 if mine.place.taken else 1000)", "--server_num", "1",
                "--server_restarts", "1", server=SERVER)  # fmt: skip
    run.until("life begins")
    assert wait_for(lambda: (run.log_dir / "recovery.json").exists(), 5)
    assert kill(run, "server 0", 0.1)
    assert run.wait() == 0, run.err
    assert "all processes started again (its tables began with uploaded weights" in run.err


def test_a_trainer_whose_past_is_on_the_servers(start):
    run = start(TRAIN + plan(trainers_alone=True) + "    steps(5 if mine.place.taken else 150)", "--trainer_num", "2",
                "--trainer_restarts", "3")  # fmt: skip
    run.until("life begins", log="trainer-1")
    assert wait_for(lambda: (run.log_dir / "recovery.json").exists(), 5)
    assert kill(run, "trainer 1", 0.3)
    assert run.wait() == 0, run.err
    assert "rejoins" in run.log("trainer-1") and run.log("trainer-0").count("life begins") == 1
    assert "restart 1 of 3: trainer 1 alone started again" in run.err


@pytest.mark.parametrize("changes, why", [({}, "state that only a checkpoint has"), ({"trainers_alone": True}, "control channel")])
def test_trainer_0_and_trainers_with_state_take_the_others_along(start, changes, why):
    script = TRAIN + plan(**changes) + "    steps(5 if mine.place.taken else 1000)"
    run = start(script, "--trainer_num", "2", "--trainer_restarts", "3")
    run.until("life begins", log="trainer-1")
    assert wait_for(lambda: (run.log_dir / "recovery.json").exists(), 5)
    assert kill(run, "trainer 0", 0.1)
    assert run.wait() == 0, run.err
    assert run.log("trainer-1").count("life begins") == 2 and why in run.err


def test_a_trainer_that_dies_in_a_call_of_all(start):
    run = start(TRAIN + plan(trainers_alone=True) + """
    steps(2)
    while not os.path.exists(os.environ["FLEET_LOG_DIR"] + "/recovery.json"):
        time.sleep(0.01)
    if os.environ["RANK"] == "1" and mine.place.taken == 0:
        mine.shared_call()
        os.kill(os.getpid(), 9)
    steps(30)
    """, "--trainer_num", "2", "--trainer_restarts", "1")  # fmt: skip
    assert run.wait() == 0, run.err
    assert "all processes started again (it was in a call of all trainers)" in run.err


def test_no_progress(start):
    """It dies, is started again, and dies before it took a step: a third time would be no other."""
    run = start(TRAIN + "    steps(0 if mine.place.taken else 3)\n    raise ValueError('always')", "--trainer_restarts", "9")
    assert run.wait() == 93
    assert "trainer 0 failed first" in run.err and "ValueError: always" in run.err and "exit 93" in run.err
    assert "restarts make no progress" in run.err and "started again:\n  at " in run.err
    assert run.log("trainer-0").count("life begins") == 2
    first = json.loads((run.log_dir / "trainer-0.failure-1.json").read_text())
    assert first["message"] == "always" and (run.log_dir / "trainer-0.failure.json").exists()


def test_a_script_that_fails_before_its_first_step_would_fail_again(start):
    run = start("raise ValueError('typing error')", "--trainer_num", "2", "--trainer_restarts", "5")
    assert run.wait() == 1
    assert "not started again: it failed before any step" in run.err
    assert "restart 1" not in run.log("trainer-0") + run.log("trainer-1")


def test_the_restarts_are_used_up(start):
    run = start(TRAIN + "    steps(3)\n    os._exit(7)", "--trainer_restarts", "2")
    assert run.wait() == 7
    assert run.log("trainer-0").count("life begins") == 3
    assert "the 2 restarts of a trainer that --trainer_restarts allows are used up" in run.err


def test_ctrl_c_during_a_restart(start):
    """The old processes are deaf to TERM, so that the restart takes its time."""
    run = start(TRAIN + """
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        time.sleep(60)
    steps(1000)
    """, "--server_num", "1", "--trainer_num", "2", "--server_restarts", "5", "--grace", "0.2", server=SERVER)  # fmt: skip
    run.until("life begins", log="trainer-1")
    run.until("life begins")
    time.sleep(0.1)
    assert kill(run, "server 0", 0)
    assert wait_for(lambda: "started again" in run.err, 5)
    os.kill(run.process.pid, signal.SIGINT)
    assert run.wait() == 130, run.err
    assert "failed first" not in run.err and survivors_after(run, 2.0) == []
    assert run.log("trainer-0").count("life begins") == 1


def test_what_a_trainer_left_ends_before_its_next_life(start):
    run = start(TRAIN + """
    if mine.place.taken == 0:
        if os.fork() == 0:
            os.execv("/bin/sleep", ["sleep-of-the-past", "60"])
        steps(3)
        os.kill(os.getpid(), 9)
    left = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            left += [name] if open(f"/proc/{name}/cmdline").read().startswith("sleep-of-the-past") else []
        except OSError:
            pass  # it ended meanwhile
    print("left:", left, flush=True)
    """, "--trainer_restarts", "1")  # fmt: skip
    assert run.wait() == 0, run.err
    assert "left: []" in run.log("trainer-0")


def test_a_server_that_somebody_stopped_is_the_cause(start):
    """The trainer says only that it lost its peer; the stopped server does not end by itself."""
    run = start(TRAIN + """
    steps(5)
    while not os.path.exists(os.environ["FLEET_LOG_DIR"] + "/stopped"):
        time.sleep(0.01)
    class PeerLost(Exception): pass
    raise PeerLost("nobody answers")
    """, "--server_num", "1", "--trainer_num", "1", "--server_restarts", "0", "--trainer_restarts", "0", server=SERVER,
    env={"FLEET_TRAINER_RESTARTS": "1"})  # fmt: skip
    run.until("server up", log="server-0")
    pid = pid_of(run, "server 0")
    os.kill(pid, signal.SIGSTOP)
    (run.log_dir / "stopped").touch()
    assert run.wait() == 124, run.err
    assert "server 0 failed first" in run.err and "stopped (SIGSTOP" in run.err
    assert "trainer 0: PeerLost: nobody answers   (a consequence, not the cause)" in run.err


@pytest.mark.parametrize("flags, says", [
    (["--trainer_restarts", "-1"], "from 0 to 1000"), (["--trainer_restarts", "x"], "whole number"),
    (["--server_restarts", "1"], "no server to start again"), (["--restarts", "1"], "unknown option"),
])  # fmt: skip
def test_wrong_use(run, flags, says):
    done = run("", *flags)
    assert done.status == 64 and says in done.err
