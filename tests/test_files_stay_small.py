"""A file has one noun: 420 lines at most, functions 70. Tracked files name no machine's paths and no foreign package."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES, FUNCTION_LINES = 420, 70
CODE = (".py", ".cc", ".h")


def tracked(*patterns: str) -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a clone: which files belong to the project is not known")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_files() -> None:
    sizes = {p: len(p.read_text().splitlines()) for p in tracked("fleet", "examples", "benchmarks", "*.py") if p.suffix in CODE}
    sizes = {p: n for p, n in sizes.items() if "tests" not in p.relative_to(ROOT).parts}  # a test's cases may be many
    assert sizes
    assert {str(p.relative_to(ROOT)): n for p, n in sizes.items() if n > FILE_LINES} == {}


def test_functions() -> None:
    long = {}
    for path in tracked("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long[f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"] = lines
    assert long == {}


# Written in two parts, so that this file does not hold what it forbids.
FORBIDDEN = {
    "a path of one machine": re.compile("/" + "work/|/ro" + "ot/|/ho" + r"me/\w"),
    "other people's package": re.compile("pip3? inst" + r"all (-\S+ )*['\"]?(fleet|paddle-fleet)\b(?!-)", re.I),
    "a registry's host": re.compile("pypi" + r"\.org|pythonhosted" + r"\.org|registry\.npm" + "js", re.I),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_no_file_says(what: str) -> None:
    found = []
    for path in tracked():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}:{n}" for n, line in enumerate(lines, 1) if FORBIDDEN[what].search(line)]
    assert found == []


def test_no_class_is_named_after_nothing() -> None:
    names = [n.name for p in tracked("fleet/*.py") for n in ast.walk(ast.parse(p.read_text())) if isinstance(n, ast.ClassDef)]
    assert names and [n for n in names if re.search(r"(Manager|Helper|Util|Utils|Base|Impl)$", n)] == []
