"""Generators in Paddle's style write what MultiSlot reads, and refuse what it cannot hold."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import pytest
from several import clean_environ

import fleet
from fleet.data import MultiSlot, MultiSlotDataGenerator, MultiSlotStringDataGenerator, Slot
from fleet.errors import ConfigError

SCRIPT = """
import fleet
class Mine(fleet.MultiSlotDataGenerator):
    def generate_sample(self, line):
        def samples():
            if line is None:
                yield [("label", [0]), ("words", [5])]
                return
            label, *words = line.split()
            yield None
            yield [("label", [int(label)]), ("words", [int(w) for w in words] or [0]), ("x", [0.5, 1])]
        return samples
    def generate_batch(self, samples):
        def batch():
            yield from sorted(samples)
        return batch
mine = Mine()
mine.set_batch(2)
mine.RUN()
"""


def test_the_script_of_a_pipe() -> None:
    def run(how: str, text: str) -> str:
        return subprocess.run([sys.executable, "-c", SCRIPT.replace("RUN", how)], input=text, capture_output=True, text=True,
                              check=True, timeout=60, env=clean_environ()).stdout  # fmt: skip

    text = run("run_from_stdin", "1 7 8\n0\n1 9\n")
    assert text == "1 0 1 0 2 0.5 1\n1 1 2 7 8 2 0.5 1\n1 1 1 9 2 0.5 1\n"
    found = MultiSlot([Slot("label", "int", 1), Slot("words"), Slot("x", "float", 2)]).parse(text.encode())
    assert found.num_bad == 0 and found.columns["label"].tolist() == [0, 1, 1]
    assert run("run_from_memory", "") == "1 0 1 5\n"


def written(kind: Any, *samples: Any) -> str:
    class Mine(kind):  # type: ignore[misc]
        def generate_sample(self, line: Any) -> Any:
            return iter(samples)

    out = io.StringIO()
    Mine().write([None], out)
    return out.getvalue()


def test_text_goes_as_it_is() -> None:
    assert written(MultiSlotStringDataGenerator, [("a", ["007", "x"]), ("b", ["1e3"])]) == "2 007 x 1 1e3\n"
    assert fleet.MultiSlotStringDataGenerator is MultiSlotStringDataGenerator


@pytest.mark.parametrize(
    ("kind", "samples", "says"),
    [
        (MultiSlotDataGenerator, [[("a", [])]], "no empty slot"),
        (MultiSlotDataGenerator, [[("a", ["1"])]], "MultiSlotString"),
        (MultiSlotDataGenerator, [[("a", [True])]], "value of slot"),
        (MultiSlotDataGenerator, [[("a", 1)]], "'a' has the values 1"),
        (MultiSlotDataGenerator, [[("a", [1])], [("b", [1])]], "sample 2 of Mine"),
        (MultiSlotDataGenerator, [7], "not a sample"),
        (MultiSlotStringDataGenerator, [[("a", [1])]], "value of slot"),
        (MultiSlotStringDataGenerator, [[("a", ["1 2"])]], "without blanks"),
    ],
)
def test_what_the_text_cannot_hold(kind: Any, samples: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        written(kind, *samples)


def test_a_generator_that_says_nothing() -> None:
    class Silent(MultiSlotDataGenerator):
        """Forgot generate_sample."""

    for kind in (MultiSlotDataGenerator, MultiSlotStringDataGenerator, Silent):
        with pytest.raises(ConfigError, match=f"{kind.__name__} does not override generate_sample") as raised:
            kind()
        assert "write generate_sample(self, line)" in raised.value.fix
    with pytest.raises(ConfigError, match="batch_size"):
        type("Mine", (MultiSlotDataGenerator,), {"generate_sample": lambda self, line: []})().set_batch(0)
