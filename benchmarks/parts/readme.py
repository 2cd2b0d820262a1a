"""README's table of figures and its picture, made from benchmarks/results/*.jsonl.

    python benchmarks/parts/readme.py          rewrites what stands between the markers in README.md, and docs/figures.svg
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
PICTURE = ROOT / "docs" / "figures.svg"
# Benchmarks in the order of the table; the first words of the questions that are shown, or all of them.
SHOWN: dict[str, tuple[str, ...]] = {
    "ctr": ("",),
    "word2vec": ("",),
    "auc": ("AUC of 2 servers",),
    "share": ("",),
    "table": ("",),
    "memory": ("",),
    "snapshot": ("",),
    "recovery": ("",),
    "readers": ("",),
    "data_parallel": ("",),
    "launch": ("",),
}


def newest(benchmark: str) -> list[dict[str, Any]]:
    """Return the newest line of each question of a benchmark, in the order in which the questions were first recorded."""
    path = ROOT / "benchmarks" / "results" / f"{benchmark}.jsonl"
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = {line["question"]: line for line in lines}  # later lines replace earlier ones
    return [line for question, line in found.items() if question.startswith(SHOWN[benchmark])]


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
    rival = f"{number(line['rival_value'])}: {line['rival']}" if line.get("rival_value") is not None else ""
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
    shown = [line for line in lines if line.get("rival_value") is not None and line.get("ratio")]
    left, scale, height = 470, 60, 26
    widest = max(3.0, min(8.0, max(line["ratio"] for line in shown)))
    width = left + int(widest * scale) + 90
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height * len(shown) + 46}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height * len(shown) + 46}" fill="white"/>',
        f'<text x="{left}" y="16" fill="#555">how many times better than what stands beside it (1 = equal)</text>',
    ]
    for at, line in enumerate(shown):
        y, length = 28 + at * height, int(min(line["ratio"], widest) * scale)
        label = line["question"] if len(line["question"]) < 68 else line["question"][:66] + "..."
        parts += [
            f'<text x="{left - 8}" y="{y + 10}" text-anchor="end">{escaped(label)}</text>',
            f'<text x="{left - 8}" y="{y + 21}" text-anchor="end" font-size="9" fill="#777">{escaped(line["rival"][:70])}</text>',
            f'<rect x="{left}" y="{y}" width="{length}" height="18" fill="{"#2b6cb0" if line["ratio"] >= 1 else "#b0562b"}"/>',
            f'<text x="{left + length + 6}" y="{y + 13}">{line["ratio"]:.2f}x</text>',
        ]
    foot = 28 + len(shown) * height
    equal = left + scale
    parts.append(f'<line x1="{equal}" y1="22" x2="{equal}" y2="{foot}" stroke="black" stroke-dasharray="3 3"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> int:
    lines = [line for benchmark in SHOWN for line in newest(benchmark)]
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    wanted = f"{before}{BEGIN}\n{table(lines)}{END}{after}"
    drawn = picture(lines)
    if "--check" in sys.argv[1:]:
        same = wanted == text and PICTURE.exists() and drawn == PICTURE.read_text(encoding="utf-8")
        if not same:
            print("README.md or docs/figures.svg differs from benchmarks/results: run `make readme`", file=sys.stderr)
        return 0 if same else 1
    readme.write_text(wanted, encoding="utf-8")
    PICTURE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
