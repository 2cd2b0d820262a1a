"""display: on a terminal one line is redrawn, and what the script prints meanwhile stands above it; a file gets plain lines."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from several import alone, clean_environ

from fleet import display
from fleet.display import Lines, Redrawn, State

STATE = State(12, 0, 3, 12, 50, {"loss": 0.25}, 20.0, 640.0, 0.125, 7.0)


@contextlib.contextmanager
def streams() -> Iterator[io.StringIO]:
    """Catch both streams. No fixture: pytest puts its own in place between a fixture and its test."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        yield out


def meter(n: int, total: int, elapsed: float, **given: Any) -> str:
    return given["bar_format"].format(desc=given["prefix"], n_fmt=n, total_fmt=total, bar="=" * 5, words=given["words"])


def screen(text: str) -> list[str]:
    """Return what a terminal shows of text with \\r, \\n and erasures."""
    lines, column = [""], 0
    for part in text.replace(display.NO_WRAP, "").replace(display.WRAP, "").replace(display.TO_END, "\0"):
        if part == "\n":
            lines.append("")
        if part in "\r\n":
            column = 0
        elif part == "\0":
            lines[-1] = lines[-1][:column]
        else:
            lines[-1] = lines[-1][:column] + part + lines[-1][column + 1 :]
            column += 1
    return lines


def test_a_file_gets_lines() -> None:
    with streams() as shown:
        Lines().show(STATE)
        assert shown.getvalue() == (
            "epoch 1/3  step 12/50 [######..................]  loss 0.25  20.0 step/s  640 examples/s  waiting 12%  ETA 0:07\n"
        )
        Lines().show(STATE._replace(batches=0, examples_per_s=0.0, left_s=None))
        assert shown.getvalue().splitlines()[1] == "step 12  loss 0.25  20.0 step/s  waiting 12%"


@pytest.mark.parametrize("columns, there, left_out", [
    (120, "20.0 step/s  640 examples/s  waiting 12%  ETA 0:07", "never"),
    (78, "640 examples/s  waiting 12%  ETA 0:07", "step/s"),
    (60, "640 examples/s  ETA 0:07", "waiting"),
])  # fmt: skip
def test_a_narrow_terminal_leaves_out_what_matters_least(columns: int, there: str, left_out: str) -> None:
    with streams() as shown:
        Redrawn(meter, lambda: columns).show(STATE)
        assert there in shown.getvalue() and left_out not in shown.getvalue()


def test_prints_stand_above_the_line() -> None:
    with streams() as shown:
        redrawn = Redrawn(meter, lambda: 80)
        for loss in (3.0, 2.0):
            redrawn.show(STATE._replace(values={"loss": loss}))
        print("AUC 0.7")
        print("a warning", file=sys.stderr)
        redrawn.say("two\nlines")
        redrawn.show(STATE._replace(values={"loss": 1.0}))
        redrawn.end()
        print("done")
        lines = screen(shown.getvalue())
        assert lines[:4] == ["AUC 0.7", "a warning", "two", "lines"]
        assert lines[4].startswith("epoch 1/3  12/50 |=====| loss 1") and lines[5:] == ["done", ""]


def test_a_line_that_somebody_has_begun_is_left_alone() -> None:
    with streams() as shown:
        redrawn = Redrawn(meter, lambda: 80)
        print("reading... ", end="")
        redrawn.show(STATE)
        print("read")
        assert screen(shown.getvalue()) == ["reading... read", ""]
        redrawn.show(STATE)
        assert screen(shown.getvalue())[1].startswith("epoch 1/3")


def test_the_streams_are_given_back() -> None:
    with streams() as shown:
        redrawn = Redrawn(meter, lambda: 80)
        assert sys.stdout is not shown and sys.stdout.getvalue() == ""
        redrawn.end()
        assert sys.stdout is shown and sys.stderr is shown


def test_streams_that_another_has_taken_are_left_to_it() -> None:
    with streams():
        redrawn = Redrawn(meter, lambda: 80)
        sys.stdout = other = io.StringIO()
        redrawn.end()
        assert sys.stdout is other


def on_terminal(script: str, columns: int) -> str:
    """Run a script whose output is a terminal of a given width; return what it wrote."""
    import fcntl
    import struct
    import subprocess
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.DEVNULL, stdout=slave,
                               stderr=slave, env=clean_environ(PYTHONUTF8="1"))  # fmt: skip
    os.close(slave)
    data = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # EIO: all have closed it
            break
        data += chunk
    os.close(master)
    assert process.wait(20) == 0, data.decode()
    return data.decode().replace("\r\n", "\n")


LOGS = """
    import time, fleet
    fleet.init()
    runtime = fleet.runtime.current("test")
    for step in range(8):
        runtime.position = (0, step + 1, 8)
        fleet.log(loss=1.5, a_rather_long_name=0.123, another_one=4.5)
        time.sleep(0.1)
        if step == 5:
            print("AUC 0.7")
"""


def test_tqdms_line_is_as_wide_as_the_terminal() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    wrote = on_terminal(LOGS, columns=60)
    assert "|" in wrote and "\r" in wrote
    lines = [line for line in screen(wrote) if line]
    assert lines[0] == "AUC 0.7" and lines[-1].startswith("epoch 1  8/8 |") and len(lines) == 2
    assert all(len(line) < 60 for line in lines)


def test_without_tqdm_a_terminal_gets_lines() -> None:
    wrote = on_terminal("import sys; sys.modules['tqdm'] = None\n" + textwrap.dedent(LOGS), columns=60)
    assert "\r" not in wrote and "step 8/8 [####" in wrote


def test_a_launcher_without_a_terminal_says_so() -> None:
    done = alone(LOGS, FLEET_PROGRESS="0")
    assert done.status == 0 and "\r" not in done.out and "step 8/8" in done.out.splitlines()[-1]
