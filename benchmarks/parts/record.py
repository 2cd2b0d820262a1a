"""One line of a result: what was measured, on what, by which command. Appended to benchmarks/results/NAME.jsonl with --record."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def machine() -> str:
    """Return the processor's name and the number of cores."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown processor")
    return f"{model}, {os.cpu_count()} cores"


def commit() -> str:
    """Return the commit that is measured; "-dirty" behind it if files other than the results differ from it."""

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results")
    return (git("rev-parse", "--short=7", "HEAD") or "unknown") + ("-dirty" if changed else "")


def spread(values: Iterable[float]) -> tuple[float, list[float]]:
    """Return the median and [lowest, highest]."""
    found = list(values)
    return statistics.median(found), [min(found), max(found)]


def write(name: str, line: dict[str, Any], command: str, record: bool) -> None:
    """Print a result with machine, commit and command; append it to results/NAME.jsonl if ``record``.

    Fields that README's table reads: ``question``, ``unit``, ``value``, and if there is a rival ``rival``, ``rival_value``,
    ``ratio`` (above 1: fleet is better).
    """
    whole = {"benchmark": name, **line, "machine": machine(), "commit": commit(), "command": command}
    text = json.dumps(whole)
    print(text, flush=True)
    if record:
        with open(ROOT / "benchmarks" / "results" / f"{name}.jsonl", "a", encoding="utf-8") as file:
            file.write(text + "\n")
