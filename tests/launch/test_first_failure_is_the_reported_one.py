"""The report names the process that failed first, with its exception and the user's own line; the rest are consequences."""

import signal

import pytest


def test_exception_with_the_users_own_line(run):
    done = run("""
        import os, json, time
        def load():
            return json.loads("{broken")   # the user's line
        if os.environ["RANK"] == "2":
            load()
        time.sleep(60)
    """, "--nproc_per_node", "3")  # fmt: skip
    assert done.status == 1
    assert "trainer 2 failed first" in done.err and "JSONDecodeError: Expecting property name" in done.err
    assert 'train.py:4   return json.loads("{broken")   # the user\'s line' in done.err
    assert "decoder.py" in done.err and "2 other processes were stopped by fleet" in done.err
    assert "trainer-2.log" in done.err and "shim.py" not in done.err + done.log("trainer-2")


def test_script_that_fails_at_import(run):
    done = run("import no_such_module_of_mine", "--nproc_per_node", "2")
    assert done.status == 1 and "ModuleNotFoundError: No module named 'no_such_module_of_mine'" in done.err
    assert "train.py:1   import no_such_module_of_mine" in done.err


def test_syntax_error(run):
    done = run("x = 1\ny = = 2\n")
    assert done.status == 1 and "SyntaxError" in done.err and "train.py:2   y = = 2" in done.err


@pytest.mark.parametrize("code, status", [("sys.exit(3)", 3), ("sys.exit('no data')", 1), ("os._exit(7)", 7), ("sys.exit(0)", 0)])
def test_status_is_the_processes_own(run, code, status):
    done = run(f"""
        import os, sys, time
        if os.environ["RANK"] == "1":
            {code}
        time.sleep(0.5 if {status} == 0 else 60)
    """, "--nproc_per_node", "2")  # fmt: skip
    assert done.status == status, done.err
    assert ("trainer 1 failed first" in done.err) == (status != 0)
    if "sys.exit(3)" in code:
        assert "sys.exit(3)" in done.err and "train.py:4" in done.err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT])
def test_ended_by_a_signal(run, number):
    done = run(f"""
        import os, signal, time
        print("before the end", flush=True)
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), {int(number)})
        time.sleep(60)
    """, "--nproc_per_node", "2")  # fmt: skip
    assert done.status == 128 + number
    assert "trainer 1 failed first" in done.err and number.name in done.err and "| before the end" in done.err
    if number == signal.SIGSEGV:  # faulthandler's dump gives the line
        assert "train.py:5   os.kill(os.getpid()" in done.err


def test_consequences_are_listed_as_such(run):
    """Three lose their peer at once and exit sooner than the cause, which takes its time to exit."""
    done = run("""
        import atexit, os, time
        mark = os.environ["FLEET_SOCKET_DIR"] + "/lost"
        if os.environ["RANK"] == "3":
            atexit.register(time.sleep, 0.2)
            open(mark, "w").close()
            raise ValueError("the true cause")
        while not os.path.exists(mark):
            time.sleep(0.001)
        time.sleep(0.02)
        if os.environ["RANK"] == "0":
            class PeerLost(Exception): pass
            raise PeerLost("trainer 3 is gone")
        if os.environ["RANK"] == "1":
            raise RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4711")
        raise ConnectionResetError(104, "Connection reset by peer")
    """, "--nproc_per_node", "4")  # fmt: skip
    assert done.status == 1
    assert "trainer 3 failed first" in done.err and "ValueError: the true cause" in done.err
    assert "trainer 0: PeerLost: trainer 3 is gone   (a consequence, not the cause)" in done.err
    assert "trainer 1: RuntimeError" in done.err and done.err.count("a consequence, not the cause") == 3


def test_a_consequence_alone_is_still_the_failure(run):
    done = run("raise ConnectionRefusedError('data base is down')")
    assert done.status == 1 and "trainer 0 failed first" in done.err and "data base is down" in done.err


def test_two_real_failures_are_ordered_by_time(run):
    done = run("""
        import os, time
        rank = int(os.environ["RANK"])
        begin = os.environ["FLEET_SOCKET_DIR"] + "/1"
        if rank == 1:
            import atexit
            atexit.register(time.sleep, 0.15)  # fails first, exits last
            open(begin, "w").close()
            raise KeyError("first")
        while not os.path.exists(begin):
            time.sleep(0.001)
        time.sleep(0.05)
        raise KeyError("second")
    """, "--nproc_per_node", "2")  # fmt: skip
    assert "trainer 1 failed first" in done.err and "KeyError: 'first'" in done.err, done.err
    assert "trainer 0: KeyError: 'second'" in done.err


def test_a_thread_that_outlives_the_failed_main_thread(run):
    done = run("""
        import threading, time
        threading.Thread(target=time.sleep, args=(100,)).start()
        raise ValueError("main has failed")
    """)
    assert done.status == 1 and "ValueError: main has failed" in done.err


def test_a_failed_process_that_lingers_and_then_leaves_with_0(run):
    done = run("""
        import atexit, os, signal, time
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        atexit.register(time.sleep, 30)
        raise ValueError("main has failed")
    """)
    assert done.status == 1 and "ValueError: main has failed" in done.err


def test_a_threads_exception_is_told_if_the_process_then_fails(run):
    done = run("""
        import sys, threading
        t = threading.Thread(target=lambda: 1 / 0, name="reader"); t.start(); t.join()
        import os; os._exit(4)
    """)
    assert done.status == 4 and "ZeroDivisionError" in done.err and "in thread reader" in done.err


def test_a_threads_exception_alone_is_no_failure(run):
    done = run("import threading; t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()")
    assert done.status == 0 and "ZeroDivisionError" in done.out


def test_the_users_own_excepthook_is_used(run):
    done = run("""
        import sys
        sys.excepthook = lambda *a: print("my hook", a[0].__name__)
        raise KeyError("k")
    """)
    assert "my hook KeyError" in done.out and "KeyError: 'k'" in done.err and done.status == 1


def test_forked_children_write_no_report_of_their_own(run):
    done = run("""
        import multiprocessing
        def fail():
            raise ValueError("in a child")
        p = multiprocessing.get_context("fork").Process(target=fail); p.start(); p.join()
    """)
    assert done.status == 0 and not list(done.log_dir.glob("*.json"))


def test_a_deleted_working_directory(run):
    done = run("import os, shutil; d = os.path.abspath('gone'); os.mkdir(d); os.chdir(d); os.rmdir(d); raise ValueError('x')")
    assert done.status == 1 and "ValueError: x" in done.err
