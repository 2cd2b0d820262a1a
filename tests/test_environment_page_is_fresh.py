"""docs/env.md is what ``python -m fleet.env`` prints, and every variable that the code names is in the table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from several import clean_environ

from fleet import env

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_is_printed_from_the_table() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "fleet.env"], capture_output=True, text=True, check=True, env=clean_environ()
    ).stdout
    assert printed == env.markdown()
    assert (ROOT / "docs/env.md").read_text() == printed, "write it again: python -m fleet.env > docs/env.md"


def test_every_variable_is_in_the_table() -> None:
    names = {v.name for v in env.TABLE}
    assert len(names) == len(env.TABLE)
    own = {name for path in (ROOT / "fleet").rglob("*.py") for name in re.findall(r"\bFLEET_[A-Z_]+\b", path.read_text())}
    build = set(re.findall(r"\bFLEET_[A-Z_]+\b", (ROOT / "setup.py").read_text())) - {"FLEET_SOURCES"}  # a macro of the core
    assert own | build <= names


def test_what_is_read_past_the_table_is_in_it_all_the_same() -> None:
    reads = re.compile(r"(?:os\.environ(?:\.get\(|\[)|os\.getenv\()([^\])]*)")
    read = {name for path in (ROOT / "fleet").rglob("*.py") if path.name != "env.py" for name in reads.findall(path.read_text())}
    names = {n for text in read for n in re.findall(r"[A-Z_]{3,}", text)}
    assert names <= {v.name for v in env.TABLE} | {"TMPDIR"}
