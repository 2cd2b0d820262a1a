"""Servers start first, end by TERM once all trainers are done, and their death before that is a failure."""

SERVER = """
    import os, signal, sys, time
    def end(*_):
        print("told to end", flush=True); sys.exit(0)
    signal.signal(signal.SIGTERM, end)
    open(os.environ["FLEET_SOCKET_DIR"] + "/up", "w").close()
    time.sleep(60)
"""
WAIT = """
    import os, time
    while not os.path.exists(os.environ["FLEET_SOCKET_DIR"] + "/up"):
        time.sleep(0.005)
"""


def test_ended_after_the_trainers(run):
    done = run(WAIT + "    time.sleep(0.2); print('trained')", "--server_num", "1", "--trainer_num", "2", server=SERVER)
    assert done.status == 0, done.err
    assert done.log("server-0") == "told to end\n" and done.out == "trained\n"


def test_a_server_that_dies_is_the_cause(run):
    done = run(
        WAIT + "    time.sleep(60)",
        "--server_num",
        "1",
        "--trainer_num",
        "2",
        server=SERVER.replace("sleep(60)", "sleep(0.2); 1 / 0"),
    )
    assert done.status == 1 and "server 0 failed first" in done.err and "ZeroDivisionError" in done.err


def test_a_server_that_just_leaves_is_a_failure(run):
    done = run(WAIT + "    time.sleep(60)", "--server_num", "1", server=SERVER.replace("sleep(60)", "sleep(0.1)"))
    assert (
        done.status == 1 and "server 0 failed first" in done.err and "exited with status 0 while trainers were running" in done.err
    )


def test_servers_outlive_trainers_that_save_on_term(run):
    done = run(WAIT + """
    import signal, sys
    if os.environ["RANK"] == "1":
        time.sleep(0.3); raise ValueError("cause")
    def save(*_):
        time.sleep(0.3)
        print("server still there:", not os.path.exists(os.environ["FLEET_SOCKET_DIR"] + "/ended"), flush=True); sys.exit(0)
    signal.signal(signal.SIGTERM, save)
    time.sleep(60)
    """, "--server_num", "1", "--trainer_num", "2",
    server=SERVER.replace('print("told', 'open(os.environ["FLEET_SOCKET_DIR"] + "/ended", "w"); print("told'))  # fmt: skip
    assert done.status == 1 and "server still there: True" in done.log("trainer-0") and "told to end" in done.log("server-0")


def test_a_server_that_fails_after_the_trainers_is_told_but_no_failure(run):
    done = run(WAIT, "--server_num", "1", server=SERVER.replace("sys.exit(0)", "os._exit(9)"))
    assert done.status == 0 and "server 0 ended with status 9 after the trainers were done" in done.err
