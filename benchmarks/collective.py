"""How long is one data-parallel step? fleet beside paddle.DataParallel and beside PyTorch DDP; lower is better.

    python benchmarks/collective.py [--works mlp resnet18 bert] [--processes 2] [--repeats 9] [--steps 5] [--torch PYTHON]

`--record` appends the results. One thread a process, SGD, the same data and weights everywhere; Paddle's and PyTorch's gradients
meet in Gloo. Blocks of steps run in turns: fleet, DataParallel, no communication (all three in the same processes), DDP, PyTorch
without communication (in processes of their own, which wait meanwhile). The answer is checked first: after three steps the weights
of each agree with one process that takes all batches, and the replicas are bitwise the same. A ratio is the median of the ratios of
neighbouring blocks.

Of each model: fleet's step beside DataParallel's, processor time likewise, fleet's step beside DDP's (another framework's kernels);
of the MLP what communication adds: the step less the same step without communication, beside the same of DDP.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from parts import record, torch213
from parts.steps import WORKS

PARTS = Path(__file__).resolve().parent / "parts"
Blocks = dict[str, list[dict[str, float]]]  # variant -> blocks: {"ms": of the slower process, "cpu_s": of all together}


class Processes:
    """Processes that run blocks of steps when they are told to, all at once."""

    def __init__(self, commands: list[list[str]], variables: list[dict[str, str]]) -> None:
        common = {**os.environ, "PYTHONPATH": str(record.ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.running = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**common, **more})
            for command, more in zip(commands, variables, strict=True)
        ]
        self.checked = [self._answer(process, "ready ") for process in self.running][0]

    def block(self, name: str, num_steps: int) -> dict[str, float]:
        """Run a block; return milliseconds a step (the slower process) and processor seconds a step (all together)."""
        for process in self.running:
            assert process.stdin is not None
            process.stdin.write(f"{name} {num_steps}\n")
            process.stdin.flush()
        found = [self._answer(process, "took ") for process in self.running]
        return {"ms": max(one["ms"] for one in found), "cpu_s": sum(one["cpu_s"] for one in found)}

    def end(self) -> None:
        """Let the processes end."""
        for process in self.running:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.running:
            process.wait(60)

    @staticmethod
    def _answer(process: subprocess.Popen[str], begin: str) -> Any:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(begin):
                return json.loads(line.removeprefix(begin))
        raise SystemExit("a process failed; see above")


def measure(work: str, given: argparse.Namespace) -> tuple[Blocks, dict[str, float]]:
    """Return the blocks of every variant, and how far the weights were from those of one process."""
    with tempfile.TemporaryDirectory() as folder:
        n, ranks = str(given.processes), range(given.processes)
        ours = Processes(
            [[sys.executable, str(PARTS / "steps_paddle.py"), work]] * given.processes,
            [{"FLEET_CONTROL": f"unix:{folder}/control", "FLEET_RANK": str(r), "FLEET_LOCAL_RANK": str(r), "FLEET_WORLD_SIZE": n,
              "FLEET_LOCAL_SIZE": n} for r in ranks],
        )  # fmt: skip
        torch = [str(given.torch or torch213.python()), str(PARTS / "steps_torch.py"), work, f"{folder}/store"]
        theirs = Processes([[*torch, str(r), n] for r in ranks], [{} for _ in ranks])
        turns = [(ours, "fleet"), (ours, "paddle"), (ours, "alone"), (theirs, "ddp"), (theirs, "torch_alone")]
        try:
            for processes, name in turns:
                processes.block(name, 2)  # memory is made, caches are filled
            blocks: Blocks = {name: [] for _, name in turns}
            for _ in range(given.repeats):
                for processes, name in turns:
                    blocks[name].append(processes.block(name, given.steps))
        finally:
            ours.end()
            theirs.end()
        return blocks, {**ours.checked, **theirs.checked}


def lines(work: str, blocks: Blocks, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the results of one model."""
    ms = {name: [block["ms"] for block in found] for name, found in blocks.items()}
    cpu = {name: [block["cpu_s"] * 1e3 for block in found] for name, found in blocks.items()}
    added = {name: [a - b for a, b in zip(ms[name], ms[alone], strict=True)] for name, alone in
             (("fleet", "alone"), ("paddle", "alone"), ("ddp", "torch_alone"))}  # fmt: skip
    every = {name: round(statistics.median(found), 2) for name, found in ms.items()}

    def line(question: str, of: dict[str, list[float]], rival: str, name: str, ratio: float, unit: str = "ms") -> dict[str, Any]:
        value, spread = record.spread(of["fleet"])
        return {
            "question": question, "unit": unit, "value": round(value, 2), "spread": [round(v, 2) for v in spread],
            "rival": name, "rival_value": round(statistics.median(of[rival]), 2),
            "rival_spread": [round(v, 2) for v in record.spread(of[rival])[1]], "ratio": round(ratio, 3), "medians": every,
            "processes": given.processes, "repeats": given.repeats, "steps": given.steps,
        }  # fmt: skip

    def paired(of: dict[str, list[float]], rival: str) -> float:
        return statistics.median(b / a for a, b in zip(of["fleet"], of[rival], strict=True))

    what = f"one data-parallel step, {WORKS[work].what}"
    found = [
        line(what, ms, "paddle", "paddle.DataParallel", paired(ms, "paddle")),
        line(f"processor time of {what}", cpu, "paddle", "paddle.DataParallel", paired(cpu, "paddle")),
        line(f"{what}, beside PyTorch", ms, "ddp", f"PyTorch {torch213.VERSION} DDP", paired(ms, "ddp")),
    ]
    if work == "mlp":  # the others compute so long that the difference is lost in the noise
        over = statistics.median(added["ddp"]) / max(statistics.median(added["fleet"]), 0.01)
        found.append(line(f"what communication adds to {what}", added, "ddp", f"PyTorch {torch213.VERSION} DDP", over))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--works", nargs="+", default=list(WORKS), choices=list(WORKS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--torch", default="", help="an interpreter that has torch 2.13.0; default: an environment is made")
    parser.add_argument("--record", action="store_true", help="append the lines to results/collective.jsonl")
    given = parser.parse_args()
    command = " ".join(["python", "benchmarks/collective.py", *sys.argv[1:]])
    for work in given.works:
        blocks, checked = measure(work, given)
        for line in lines(work, blocks, given):
            record.write("collective", {**line, "apart_from_one_process": checked}, command, given.record)


if __name__ == "__main__":
    main()
