"""docs/one_step.md follows the code: every function, class and module that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORDS = {"param.grad", "optimizer.step", "num_samples", "num_global", "timeout_s", "run_backward", "no_sync", "nn.Embedding"}


def test_every_name() -> None:
    rooms = {p.name for p in (ROOT / "fleet").rglob("*") if p.is_dir()}
    there = {p.stem for p in (ROOT / "fleet").rglob("*.py")} | rooms | {"fleet", "unique", "Unique"}
    for path in (ROOT / "fleet").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                there.add(node.name)
    named = set(re.findall(r"`([A-Za-z_][\w.]*)(?:\(\))?`", (ROOT / "docs/one_step.md").read_text())) - WORDS - {"None"}
    named = {name for name in named if re.search(r"[._A-Z]", name) and len(name) > 1}
    assert len(named) > 40
    assert {name: part for name in sorted(named) for part in name.split(".") if part not in there} == {}
