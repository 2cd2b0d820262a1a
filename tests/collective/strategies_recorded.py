"""What the tests of strategies found, for the tables in README and docs/strategy.md: benchmarks/results/strategies.json.

    python tests/collective/strategies_recorded.py      walks every pair and writes it (make strategies)

For every strategy: ``kind`` and ``what`` it is; ``excludes``, other -> reason; ``composes_with``, those with which the walk's
pair equals its definition; ``bytes_a_float``, sent by a trainer for a float of gradient and batch, counted by
``strategy_jobs.sent`` under ``settings`` (the defaults where there are none).
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from trainers import Trainers

from fleet.collective.strategies import SECTIONS
from fleet.strategy import blocks, kinds

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "strategies.json"
# Their defaults would show nothing: a group of one micro-step, a warm-up that outlasts the count.
MEASURED: dict[str, dict[str, Any]] = {
    "gradient_merge": {"k_steps": 4},
    "onebit": {"freeze_steps": 1},
    "localsgd": {"k_steps": 4},
    "adaptive_localsgd": {"init_k_steps": 4},
    "post_localsgd": {"k_steps": 4, "begin_step": 1},
}


def read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    return found


def declared() -> dict[str, dict[str, Any]]:
    """Return what can be said of every strategy without running it."""
    kind_of = {place: kind for kind, places in SECTIONS for place in places}
    found = {}
    for name, kind in kinds().items():
        module = importlib.import_module(kind.__module__)
        what = str(module.__doc__).splitlines()[0].partition(": ")[2].rstrip(".")
        place = f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
        excludes = {other: why for other in kinds() if (why := reason(name, other))}
        found[name] = {"kind": kind_of[place], "what": what, "settings": MEASURED.get(name, {}), "excludes": excludes}
    return found


def reason(name: str, other: str) -> str:
    """Return why two strategies exclude each other, or nothing."""
    one, two = blocks()[name], blocks()[other]
    if one.encodes and two.encodes and name != other:
        return one.conflicts.get(other) or two.conflicts.get(name) or "a bucket has one encoding"
    return one.conflicts.get(other) or two.conflicts.get(name) or ""


def bytes_sent(pair: Trainers) -> dict[str, float]:
    wanted = [{name: MEASURED.get(name, {})} for name in kinds()]
    counts = pair.run("collective.strategy_jobs:sent", strategies=wanted)
    return {name: round(max(counts[0][k], counts[1][k]), 3) for k, name in enumerate(kinds())}


def main() -> None:
    from collective.test_every_strategy_is_its_definition import walk

    with Trainers(2) as pair:
        composed, num_pairs = walk(pair)
        sent = bytes_sent(pair)
    found: dict[str, Any] = declared()
    for name, entry in found.items():
        entry["bytes_a_float"] = sent[name]
        entry["composes_with"] = [other for other in kinds() if (name, other) in composed or (other, name) in composed]
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{len(composed)} of {num_pairs} pairs compose")


if __name__ == "__main__":
    main()
