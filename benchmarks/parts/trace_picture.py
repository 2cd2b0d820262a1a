"""Draws one step of a trace that ``fleet.profile`` wrote.

    python benchmarks/parts/trace_picture.py TRACE STEP > docs/profile.svg
"""

from __future__ import annotations

import json
import sys
from html import escape
from typing import Any

WIDTH, LEFT, ROW, GAP = 960, 150, 20, 14
COLOURS = {"load": "#c9b458", "forward": "#7aa6d6", "backward": "#4f7fb8", "encode": "#9467bd",
           "meet": "#d9d9d9", "wait": "#d9d9d9", "send": "#e07b39", "apply": "#5aa469"}  # fmt: skip


def depth(event: dict[str, Any], others: list[dict[str, Any]]) -> int:
    """Return in how many others of its lane a slice lies."""
    end = event["ts"] + event["dur"]
    return sum(o is not event and o["ts"] <= event["ts"] and end <= o["ts"] + o["dur"] and o["dur"] > event["dur"] for o in others)


def draw(events: list[dict[str, Any]], step: str) -> str:
    """Return the picture of a step of all trainers."""
    steps = [e for e in events if e["ph"] == "X" and e["name"] == step]
    begin, end = min(e["ts"] for e in steps), max(e["ts"] + e["dur"] for e in steps)
    scale = (WIDTH - LEFT - 10) / (end - begin)
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    inside = [e for e in events if e["ph"] == "X" and e["cat"] != "step" and e["ts"] + e["dur"] > begin and e["ts"] < end]
    parts, tops, top = [], {}, 10
    for lane in sorted(names):
        mine = [e for e in inside if (e["pid"], e["tid"]) == lane]
        rows = [depth(e, mine) for e in mine]
        tops[lane] = top
        parts.append(f'<text x="4" y="{top + 14}">trainer {lane[0]}: {escape(names[lane])}</text>')
        for event, row in zip(mine, rows, strict=True):
            x = LEFT + max(0.0, event["ts"] - begin) * scale
            width = max(1.0, (min(end, event["ts"] + event["dur"]) - max(begin, event["ts"])) * scale)
            y = top + row * ROW
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 3}" fill="{COLOURS[event["cat"]]}">'
                         f'<title>{escape(event["name"])}: {event["dur"] / 1000:.2f} ms</title></rect>')  # fmt: skip
            if width > 46:
                parts.append(f'<text x="{x + 3:.1f}" y="{y + 13}">{event["cat"]}</text>')
        top += (max(rows, default=0) + 1) * ROW + GAP
    arrows = [e for e in events if e["ph"] in "stf" and begin <= e["ts"] <= end]
    for number in sorted({e["id"] for e in arrows}):
        way = sorted((e for e in arrows if e["id"] == number), key=lambda e: "stf".index(e["ph"]))
        # Buckets are given away and waited for inside backward, in the script's second row; sent in the other lane's first.
        points = [f"{LEFT + (e['ts'] - begin) * scale:.1f},{tops[e['pid'], e['tid']] + (8 if e['tid'] else ROW + 8)}" for e in way]
        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="#222" stroke-width="0.8"/>')
    parts.append(f'<text x="{LEFT}" y="{top + 8}">{step}: {(end - begin) / 1000:.2f} ms</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top + 16}" font-family="sans-serif" font-size="11">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{top + 16}" fill="#fff"/>', *parts, "</svg>"])


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as trace:
        print(draw(json.load(trace)["traceEvents"], f"step {sys.argv[2]}"))
