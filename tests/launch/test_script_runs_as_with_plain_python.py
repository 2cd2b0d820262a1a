"""The script finds ``__main__``, ``sys.argv``, ``sys.path`` and standard input as ``python SCRIPT`` makes them."""

import subprocess
import sys


def test_arguments_are_untouched(run):
    done = run("import sys; print(sys.argv)", args=("--nproc_per_node", "9", "-c", "x", "--help", "--", "-m"))
    assert done.log("trainer-0").strip() == "['train.py', '--nproc_per_node', '9', '-c', 'x', '--help', '--', '-m']"


LOOK = """
import sys, __main__
names = sorted(k for k in vars(__main__) if k.startswith("__") and k not in ("__annotations__",))
print(names, __name__, __file__, __package__, __spec__, __doc__, sys.argv, sys.path, type(__loader__).__name__, __builtins__)
"""


def test_main_is_as_python_makes_it(run, tmp_path):
    done = run(LOOK)
    plain = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, timeout=20,
                           env={"PYTHONPATH": ":".join(p for p in [str(_root())])})  # fmt: skip
    assert done.log("trainer-0") == plain.stdout


def _root():
    from kill_harness import ROOT

    return ROOT


def test_module_with_dash_m(start, tmp_path):
    import kill_harness

    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "__main__.py").write_text(
        "from . import other; import sys; print(other.x, sys.argv[1:], __spec__.name, sys.path[0])"
    )
    (tmp_path / "pack" / "other.py").write_text("x = 'relative import'")
    run = kill_harness.start(["--nproc_per_node", "2", "-m", "pack", "--lr", "1"], tmp_path)
    assert run.wait() == 0, run.err
    assert run.log("trainer-1").strip() == f"relative import ['--lr', '1'] pack.__main__ {tmp_path}"


def test_directory_with_a_main(tmp_path):
    import kill_harness

    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text("import beside; print(beside.x, __name__)")
    (tmp_path / "app" / "beside.py").write_text("x = 5")
    run = kill_harness.start(["app"], tmp_path)
    assert run.wait() == 0, run.err
    assert run.log("trainer-0").strip() == "5 __main__"


def test_spawned_children_and_pickled_classes(run):
    done = run("""
        import multiprocessing, pickle, sys

        class Point:
            x = 3

        def work(p):
            return p.x + 1

        if __name__ == "__main__":
            assert pickle.loads(pickle.dumps(Point())).x == 3
            assert Point.__module__ == "__main__" and sys.modules["__main__"].Point is Point
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print("got", pool.map(work, [Point()]))
    """)
    assert done.status == 0, done.err
    assert "got [4]" in done.log("trainer-0")


def test_atexit_functions_still_find_main(run):
    done = run("""
        import atexit, pickle
        class A: pass
        @atexit.register
        def last():
            print("last", type(pickle.loads(pickle.dumps(A()))).__name__)
    """)
    assert "last A" in done.log("trainer-0")


def test_standard_input_is_empty(run):
    assert run("import sys; print(repr(sys.stdin.read()))").log("trainer-0").strip() == "''"


def test_interpreter_options_are_passed_on(tmp_path):
    import kill_harness

    (tmp_path / "train.py").write_text("import sys; print(sys.flags.optimize, sys.flags.dev_mode)")
    run = kill_harness.start(["train.py"], tmp_path, command=("-O", "-X", "dev", "-m", "fleet.launch"))
    assert run.wait() == 0, run.err
    assert run.log("trainer-0").strip().splitlines()[-1] == "1 True"


def test_launch_py_is_the_same_command(tmp_path):
    import kill_harness

    (tmp_path / "train.py").write_text("print('hello')")
    run = kill_harness.start(["--nproc-per-node=2", "train.py"], tmp_path, command=(str(kill_harness.ROOT / "launch.py"),))
    assert run.wait() == 0, run.err
    assert run.out == "hello\n"
