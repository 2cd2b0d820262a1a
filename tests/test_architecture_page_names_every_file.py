"""docs/architecture.md has every module and every header of the core in its tree, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREE = (ROOT / "docs/architecture.md").read_text().split("## The tree")[1].split("```")[1]


def test_every_file_is_named() -> None:
    files = [p for p in (ROOT / "fleet").rglob("*.py") if p.name != "__init__.py"] + list((ROOT / "fleet").rglob("*.h"))
    assert [str(p.relative_to(ROOT)) for p in sorted(files) if p.name not in re.findall(r"[\w.]+", TREE)] == []


def test_every_name_is_a_file() -> None:
    there = {p.name for folder in ("fleet", "examples") for p in (ROOT / folder).rglob("*")}
    assert [name for name in re.findall(r"[\w.]+\.(?:py|h)\b", TREE) if name not in there] == []
