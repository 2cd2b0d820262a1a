"""train.py is single.py and at most ten added lines."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/single.py"))


@pytest.mark.parametrize("name", NAMES)
def test_added_lines(name: str) -> None:
    folder = EXAMPLES / name
    done = subprocess.run(["git", "diff", "--no-index", "--numstat", str(folder / "single.py"), str(folder / "train.py")],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 1, done.stderr  # they differ
    assert 0 < int(done.stdout.split()[0]) <= 10


@pytest.mark.parametrize("name", NAMES)
def test_a_readme_with_the_command(name: str) -> None:
    text = (EXAMPLES / name / "README.md").read_text()
    assert f"examples/{name}/single.py" in text and "fleet.launch" in text
