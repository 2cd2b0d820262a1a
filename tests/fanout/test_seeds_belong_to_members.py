"""R8: the same numbers for any number of workers, on retries, and for libraries that a member imports first."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest
from scripts import run

import fleet


def draw(x: int) -> tuple[float, float]:
    member = fleet.current()
    assert member is not None
    return random.random(), member.rng.random()


def test_workers_and_backends_do_not_matter() -> None:
    one = fleet.spread(range(6), workers=1).map(draw).gather()
    two = fleet.spread(range(6), workers=2).map(draw).gather()
    state = random.getstate()
    here = fleet.spread(range(6), backend="inline").map(draw).gather()
    assert random.getstate() == state
    assert one == two == here and len(set(one)) == 6
    threads = fleet.spread(range(6), backend="thread").map(draw).gather()
    assert [own for _, own in threads] == [own for _, own in one]
    assert fleet.spread(range(6), workers=2, seed=1).map(draw).gather() != one
    free = fleet.spread(range(2), seed=None).map(lambda x: fleet.current().seed).gather()  # type: ignore[union-attr]
    assert free == [None, None]


def test_a_retry_has_the_same_seed(tmp_path: Path) -> None:
    def member(x: int) -> float:
        value = random.random()
        with open(tmp_path / "drawn", "a") as file:
            file.write(f"{value}\n")
        if fleet.current().attempt == 1:  # type: ignore[union-attr]
            raise OSError
        return value

    fleet.spread([0], retries=1, backoff_s=0).map(member).gather()
    first, second = (tmp_path / "drawn").read_text().split()
    assert first == second


def test_numpy_is_seeded_even_if_a_member_imports_it_first(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    code = """
import fleet
def member(x):
    import numpy
    return float(numpy.random.rand())
one = fleet.spread(range(4), workers=1).map(member).gather()
two = fleet.spread(range(4), workers=2).map(member).gather()
here = fleet.spread(range(4), backend="inline").map(member).gather()
print(one == two, one[1:] == here[1:])
"""
    assert run(code, cwd=tmp_path)[:2] == (0, "True True\n")


def test_stable_hashes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    code = """
from fleet.fanout import stable_hash
import collections, functools, math
K = {"b", "a", "c"}
class C:
    def __init__(self): self.x = {"k": (1, 2.5)}
    def method(self): return K
def helper(x): return x in K
def f(x, y=3, *, z={1, 2}): return helper(x) or math.sqrt(y) or [helper(i) for i in z]
def again(n): return again(n - 1) if n else 0
values = [1, "a", b"b", None, 1.5, (1, [2]), {"a": 1, "b": {2, 3}}, frozenset("abc"), C(), C().method, f, again,
          functools.partial(f, y=2), collections.OrderedDict(a=1), range(3), lambda x: x + 1, len, C]
try:
    import numpy
    values += [numpy.arange(4), numpy.float32(3), numpy.zeros((2, 3)).T]
except ImportError: pass
print([stable_hash.text_of(v) for v in values])
print(stable_hash.text_of(1) != stable_hash.text_of(True) != stable_hash.text_of("1"))
"""
    outs = {run(code, cwd=tmp_path, PYTHONHASHSEED=str(seed))[:2] for seed in (0, 1, 2)}
    assert len(outs) == 1 and next(iter(outs))[0] == 0
    assert next(iter(outs))[1].endswith("True\n")


def test_what_changes_a_hash_and_what_does_not() -> None:
    from fleet.fanout.stable_hash import text_of

    def made(source: str, **names: Any) -> Any:
        space: dict[str, Any] = {"__name__": "__main__", **names}
        exec(source, space)
        return space["f"]

    base = text_of(made("def f(x): return x + 1"))
    assert base == text_of(made("\n\n# a comment\ndef f(x):\n    return x + 1"))
    assert base != text_of(made("def f(x): return x + 2")) and base != text_of(made("def f(x): return x - 1"))
    assert text_of(made("def f(x): return K", K=1)) != text_of(made("def f(x): return K", K=2))
    assert text_of(made("def f(x): return 1", K=1)) == text_of(made("def f(x): return 1", K=2))
    inner = "def g(x): return {}\ndef f(x): return g(x)"
    assert text_of(made(inner.format(1))) != text_of(made(inner.format(2)))
    assert text_of({"a": 1, "b": 2}) == text_of({"b": 2, "a": 1}) != text_of({"a": 1})
    loop: list[Any] = []
    loop.append(loop)
    assert text_of(loop) != text_of([[]])
    assert "numpy" not in sys.modules or text_of([0.1]) != text_of([0.2])
