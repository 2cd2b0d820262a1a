"""How long does it take to reach a given loss over a slow link? Every way to send less, beside plain gradients; lower is better.

    python benchmarks/slow_link.py [--megabits 100 1000] [--ways int8 powersgd ...] [--repeats 3] [--paced]

`--record` appends the results. Two trainers of one thread each, in two network namespaces that a veth pair joins; tc's token bucket
gives both directions the rate. Where a process may not make namespaces (or with `--paced`), each collective instead lasts as long
as its bytes would; `link` in the result says which. The trainers do not share memory (`FLEET_SHARED_MEMORY=off`): all that is
exchanged goes through Gloo, so over the link. Only fleet's meetings (some 20 bytes a bucket) take the control channel's AF_UNIX
socket: a real network would add its latency there, here there is none.

The model is an MLP of 1.1 M parameters (4.5 MB a step) that tells 200 clouds of points in 10 classes apart; Momentum, the same rate
for all but gradient_merge, whose step is of four batches and four times as long. Before anything is timed, plain training is
compared with one process that takes whole batches: their held-out losses differ by less than 0.01 all the way. A time counts steps
only, from step 5 (memory and groups stand) to the first look at the held-out loss (each 4 steps, on a stopped clock) that finds it
low enough. The ways take turns; a ratio is the median of the ratios within a turn. A way that does not get there within
`--most_steps` has no time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from parts import record
from parts.link import Link, LinkError

TRAINER = Path(__file__).resolve().parent / "parts" / "slow_trainer.py"
MERGED = 4
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16_allreduce": {"bf16_allreduce": True},
    "fp16_allreduce": {"fp16_allreduce": True},
    "int8": {"int8": True},
    "powersgd": {"powersgd": {"rank": 4}},
    "dgc": {"dgc": {"sparsity": [0.99]}},
    "gradient_merge": {"gradient_merge": {"k_steps": MERGED}},
    "localsgd": {"localsgd": {"k_steps": 4}},
}


def job(way: str, megabits: int, given: argparse.Namespace, check: bool = False) -> dict[str, Any]:
    """Run a job over a link of its own; return what trainer 0 found."""
    rate = given.rate * (MERGED if way == "gradient_merge" else 1)
    command = [sys.executable, str(TRAINER), json.dumps(WAYS[way]), "--loss", str(given.loss), "--rate", str(rate)]
    command += ["--batch", str(given.batch), "--most_steps", str(given.most_steps), *(["--check"] if check else [])]
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        link = None if given.paced else stack.enter_context(Link(megabits))
        command += [] if link else ["--paced", str(megabits)]
        common = {
            **os.environ, "PYTHONPATH": str(record.ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
            "FLEET_SHARED_MEMORY": "off", "GLOO_SOCKET_IFNAME": "eth0" if link else "lo",
            "FLEET_CONTROL": f"unix:{folder}/control", "FLEET_WORLD_SIZE": "2", "FLEET_LOCAL_SIZE": "2",
        }  # fmt: skip
        running = []
        for rank in (0, 1):
            variables = {**common, "FLEET_RANK": str(rank), "FLEET_LOCAL_RANK": str(rank)}
            where = link.inside(rank, command) if link else command
            running.append(subprocess.Popen(where, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"{way} failed:\n" + "\n".join(said))
    line = next(line for line in said[0].splitlines() if line.startswith("took "))
    found: dict[str, Any] = json.loads(line.removeprefix("took "))
    took = f"{found['s']:.2f} s, {found['steps']} steps, {found['bytes_a_step']:,} bytes a step"
    print(f"{way}, {megabits} Mb/s: {took}", file=sys.stderr)
    return found


def line_of(way: str, megabits: int, found: dict[str, list[dict[str, Any]]], given: argparse.Namespace) -> dict[str, Any]:
    """Return the result of one way over one link."""
    mine, plain = found[way], found["plain"]
    value, spread = record.spread([one["s"] for one in mine])
    beside, beside_spread = record.spread([one["s"] for one in plain])
    reached = all(one["reached"] for one in mine) and all(one["reached"] for one in plain)
    settings = ", ".join(f"{k} {v}" for block in WAYS[way].values() if isinstance(block, dict) for k, v in block.items())
    named = f"{way} ({settings})" if settings else way
    rate = f"{megabits // 1000} Gb/s" if megabits % 1000 == 0 else f"{megabits} Mb/s"
    return {
        "question": f"time to a loss of {given.loss} over {rate}, {named}", "unit": "s",
        "value": round(value, 3) if reached else None, "spread": [round(v, 3) for v in spread],
        "rival": "plain", "rival_value": round(beside, 3), "rival_spread": [round(v, 3) for v in beside_spread],
        "ratio": round(statistics.median(p["s"] / m["s"] for p, m in zip(plain, mine, strict=True)), 3) if reached else None,
        "reached": reached, "steps": mine[0]["steps"], "rival_steps": plain[0]["steps"],
        "step_ms": round(statistics.median(one["step_ms"] for one in mine), 1),
        "rival_step_ms": round(statistics.median(one["step_ms"] for one in plain), 1),
        "bytes_a_step": mine[0]["bytes_a_step"], "rival_bytes_a_step": plain[0]["bytes_a_step"],
        "link": "each collective lasts as long as its bytes would" if given.paced else Link.way, "repeats": given.repeats,
    }  # fmt: skip


def main() -> None:
    """Check, measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabits", type=int, nargs="+", default=[100, 1000])
    ways = [way for way in WAYS if way != "plain"]
    parser.add_argument("--ways", nargs="+", default=ways, choices=ways)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loss", type=float, default=0.3, help="held-out; chance is 2.3")
    parser.add_argument("--rate", type=float, default=0.03, help="learning rate")
    parser.add_argument("--batch", type=int, default=128, help="samples a step, of both trainers together")
    parser.add_argument("--most_steps", type=int, default=161)
    parser.add_argument("--paced", action="store_true", help="make no link: collectives last as long as their bytes would")
    parser.add_argument("--record", action="store_true", help="append the lines to results/slow_link.jsonl")
    given = parser.parse_args()
    command = " ".join(["python", "benchmarks/slow_link.py", *sys.argv[1:]])
    if not given.paced:
        try:
            with Link(1000):
                pass
        except LinkError as error:
            print(f"no link can be made here: {error}; collectives are slowed down instead", file=sys.stderr)
            given.paced = True
    checked = job("plain", 1000, given, check=True)
    for megabits in given.megabits:
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in ("plain", *given.ways)}
        for _ in range(given.repeats):
            for way, jobs in found.items():
                jobs.append(job(way, megabits, given))
        for way in given.ways:
            line = {**line_of(way, megabits, found, given), "apart_from_one_process": checked["apart_from_one_process"]}
            record.write("slow_link", line, command, given.record)


if __name__ == "__main__":
    main()
