"""README's table of figures and its picture, and docs/figures.md with all figures, made from benchmarks/results/*.jsonl.

The tables of strategies in README and docs/strategy.md are made from benchmarks/results/strategies.json (`make strategies`).

    python benchmarks/parts/readme.py          rewrites the files, README.md and docs/strategy.md between their markers
    python benchmarks/parts/readme.py --check  exit status 1 if they differ from the results

The newest line of each question counts. Ratios above 1 mean that fleet is better.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- figures: made by benchmarks/parts/readme.py -->", "<!-- end of figures -->"
STRATEGIES_BEGIN, STRATEGIES_END = "<!-- strategies: made by benchmarks/parts/readme.py -->", "<!-- end of strategies -->"
PICTURE, ALL = ROOT / "docs" / "figures.svg", ROOT / "docs" / "figures.md"
# Benchmarks in the order of both tables, and which of their questions README shows: those that contain one of these
# ("$" is a question's end).
SHOWN: dict[str, tuple[str, ...]] = {
    "ctr": ("",),
    "word2vec": ("",),
    "auc": ("sync, minus", "bounded, minus", "async, minus", "geo, minus", "all_bfloat16, minus"),
    "share": ("",),
    "table": ("pull in process$", "push in process, row-wise Adagrad$", "push in process, Adam$", "insert", "pull over TCP",
              "push over AF_UNIX, element-wise Adagrad, 2,000,000 rows"),
    "memory": ("row-wise", "Paddle", "OpenEmbedding"),
    "snapshot": ("written, per core", "loaded, per core", "longest pull", "delta"),
    "recovery": ("",),
    "readers": ("multislot$", "criteo"),
    "growth": (),
    "collective": ("",),
    "slow_link": ("100 Mb/s",),
    "imagenet": ("",),
    "data_parallel": ("",),  # the forerunner of collective.py: recorded at the commit that its line names
    "launch": ("",),
}  # fmt: skip


def shown(line: dict[str, Any]) -> bool:
    """Return whether README shows this line."""
    question = line["question"] + "$"
    return any(part in question for part in SHOWN[line["benchmark"]])


def newest(benchmark: str) -> list[dict[str, Any]]:
    """Return the newest line of each question of a benchmark, in the order in which the questions were first recorded."""
    path = ROOT / "benchmarks" / "results" / f"{benchmark}.jsonl"
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = {line["question"]: line for line in lines}  # later lines replace earlier ones
    return [line for question, line in found.items() if not question.startswith("AUC of 1 server")]  # asked otherwise before


def number(value: float) -> str:
    """Return a number with three digits that matter, thousands apart."""
    if value == 0 or 0.001 <= abs(value) < 0.0999:
        return f"{value:.4f}" if value else "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 0.001 else f"{value:+.5f}"


def row(line: dict[str, Any]) -> str:
    """Return one row of the table."""
    value = f"{number(line['value'])} {line['unit']}"
    if line.get("spread"):
        value += f" ({number(line['spread'][0])} to {number(line['spread'][1])})"
    beside = f"{number(line['rival_value'])}: {line['rival']}" if line.get("rival_value") is not None else ""
    rival = "" if line.get("rival") == "asked for" else beside
    ratio = f"**{line['ratio']:.2f}x**" if rival and line.get("ratio") is not None else ""
    question = line["question"] + (f" ({line['ours']})" if line.get("ours") else "")
    return f"| {question} | {value} | {rival} | {ratio} | `{line['benchmark']}.py`, {line['commit']} |"


def table(lines: list[dict[str, Any]]) -> str:
    """Return README's table."""
    head = "| question | fleet: median (spread) | beside it | ratio | command, commit |\n|---|---|---|---|---|\n"
    return head + "\n".join(row(line) for line in lines) + "\n"


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def picture(lines: list[dict[str, Any]]) -> str:
    """Return an SVG with a bar for each ratio beside a rival; the line at 1 is the rival."""
    bars = [line for line in lines if line.get("rival_value") is not None and line.get("rival") != "asked for"]
    left, scale, height = 470, 60, 26
    widest = max(3.0, min(8.0, max(line["ratio"] for line in bars)))
    width = left + int(widest * scale) + 90
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height * len(bars) + 46}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height * len(bars) + 46}" fill="white"/>',
        f'<text x="{left}" y="16" fill="#555">how many times better than what stands beside it (1 = equal)</text>',
    ]
    for at, line in enumerate(bars):
        y, length = 28 + at * height, int(min(line["ratio"], widest) * scale)
        label = line["question"] if len(line["question"]) < 68 else line["question"][:66] + "..."
        parts += [
            f'<text x="{left - 8}" y="{y + 10}" text-anchor="end">{escaped(label)}</text>',
            f'<text x="{left - 8}" y="{y + 21}" text-anchor="end" font-size="9" fill="#777">{escaped(line["rival"][:70])}</text>',
            f'<rect x="{left}" y="{y}" width="{length}" height="18" fill="{"#2b6cb0" if line["ratio"] >= 1 else "#b0562b"}"/>',
            f'<text x="{left + length + 6}" y="{y + 13}">{line["ratio"]:.2f}x</text>',
        ]
    foot = 28 + len(bars) * height
    equal = left + scale
    parts.append(f'<line x1="{equal}" y1="22" x2="{equal}" y2="{foot}" stroke="black" stroke-dasharray="3 3"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def short_strategies(found: dict[str, Any]) -> str:
    """Return README's table of strategies."""
    others = len(found) - 1
    rows = [f"| `{name}` | {entry['what']} | {len(entry['composes_with'])} of {others} |" for name, entry in found.items()]
    return "\n".join(["| strategy | what it does | composes with |\n|---|---|---|", *rows]) + "\n"


def strategies(found: dict[str, Any]) -> str:
    """Return the table of docs/strategy.md."""
    pairs = len(found) * (len(found) - 1) // 2
    composed = sum(len(entry["composes_with"]) for entry in found.values()) // 2
    rows = [f"Of {pairs} pairs {composed} compose ({100 * composed / pairs:.0f} %); the others are refused, with the reason.\n"]
    rows.append("| strategy | kind | what it does | bytes a float and batch | excludes |\n|---|---|---|---|---|")
    for name, entry in found.items():
        by_reason: dict[str, list[str]] = {}
        for other, why in entry["excludes"].items():
            by_reason.setdefault(why, []).append(f"`{other}`")
        excludes = "; ".join(f"{', '.join(others)}: {why}" for why, others in by_reason.items())
        how = f" ({', '.join(f'{key} {value}' for key, value in entry['settings'].items())})" if entry["settings"] else ""
        rows.append(f"| `{name}` | {entry['kind']} | {entry['what']} | {entry['bytes_a_float']:g}{how} | {excludes} |")
    return "\n".join(rows) + "\n"


def between(text: str, begin: str, end: str, made: str) -> str:
    """Return ``text`` with what stands between the markers replaced."""
    before, rest = text.split(begin)
    return f"{before}{begin}\n{made}{end}{rest.split(end)[1]}"


def main() -> int:
    lines = [line for benchmark in SHOWN for line in newest(benchmark)]
    chosen = [line for line in lines if shown(line)]
    readme, manual = ROOT / "README.md", ROOT / "docs" / "strategy.md"
    found = json.loads((ROOT / "benchmarks" / "results" / "strategies.json").read_text("utf-8"))
    front = between(readme.read_text("utf-8"), BEGIN, END, table(chosen))
    front = between(front, STRATEGIES_BEGIN, STRATEGIES_END, short_strategies(found))
    taught = between(manual.read_text("utf-8"), STRATEGIES_BEGIN, STRATEGIES_END, strategies(found))
    head = "# All figures\n\nMade by `make readme` from `benchmarks/results/`; a ratio above 1 means that fleet is better.\n\n"
    wanted = {readme: front, manual: taught, PICTURE: picture(chosen), ALL: head + table(lines)}
    if "--check" in sys.argv[1:]:
        stale = [path.name for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
        if stale:
            print(f"{', '.join(stale)} differ from benchmarks/results: run `make readme`", file=sys.stderr)
        return 1 if stale else 0
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
