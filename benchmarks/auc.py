"""Does a parameter-server job learn as much as one machine in the same epochs?

    python benchmarks/auc.py [--samples 300000] [--seeds 1 2 3] [--modes sync ...] [--precisions float32 ...] [--record]

Trains examples/ctr alone (single.py) and as 2 servers + 2 trainers (train.py), with the same seeds and data, and compares the AUC
on held-out data. The job runs in every mode of --modes with float32 everywhere, and in every precision of --precisions: in the
first mode, and the other modes too with --all. Wanted: |job - alone| at most 0.003, in async, geo and with 16 bits 0.006 (medians
over seeds); exit status 1 if not.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from parts.record import ROOT, write

EXAMPLE = ROOT / "examples" / "ctr"
RESULT = re.compile(r"AUC (\d\.\d+), (\d+) examples/s")
WITHIN = {"sync": 0.003, "half_async": 0.003, "bounded": 0.003, "async": 0.006, "geo": 0.006}
WITHIN_16_BITS = 0.006
PRECISIONS = {  # fields of the strategy's parameter_server
    "float32": {},
    "weights_bfloat16": {"weights": "bfloat16"},
    "weights_float16": {"weights": "float16"},
    "state_bfloat16": {"state": "bfloat16"},
    "wire_bfloat16": {"wire": "bfloat16"},
    "wire_float16": {"wire": "float16"},
    "all_bfloat16": {"weights": "bfloat16", "state": "bfloat16", "wire": "bfloat16"},
}


def run(command: list[str], options: list[str]) -> tuple[float, int]:
    """Return AUC and examples/s of one run."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, *command, *options], env=environment, capture_output=True, text=True)
    found = RESULT.search(done.stdout)
    if done.returncode or not found:
        raise SystemExit(f"{command} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return float(found[1]), int(found[2])


class Way:
    """One way to run the job: a mode and a precision."""

    def __init__(self, mode: str, precision: str) -> None:
        self.options = f"--modes {mode} --precisions {precision}"
        self.name = mode if precision == "float32" else f"{mode} {precision}"
        self.within = WITHIN[mode] if precision == "float32" else WITHIN_16_BITS
        self._fields = {"consistency": mode, **PRECISIONS[precision]}

    def command(self, directory: Path) -> list[str]:
        """Write the strategy below ``directory``; return what Python runs."""
        file = directory / f"{self.name.replace(' ', '-')}.yaml"
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        file.write_text(f"strategy:\n  parameter_server: {{{fields}}}\n")
        launch = ["-m", "fleet.launch", "-c", str(file), "--device", "cpu", "--server_num", "2", "--trainer_num", "2"]
        return [*launch, "--log_dir", str(directory), str(without_export(directory))]


def without_export(directory: Path) -> Path:
    """Return a copy of train.py that ends with the AUC: its export is not asked about here, and would replace data/ctr/served."""
    text = (EXAMPLE / "train.py").read_text(encoding="utf-8")
    kept, found, _ = text.partition("fleet.export(")
    if not found:
        raise SystemExit("examples/ctr/train.py exports nothing any more: delete this function")
    script = directory / "train.py"
    script.write_text(kept, encoding="utf-8")
    return script


def ways_of(modes: list[str], precisions: list[str], everywhere: bool) -> list[Way]:
    """Return what is compared: geo refuses 16 bits on the wire, so it is left out there."""
    wanted = [(mode, "float32") for mode in modes if "float32" in precisions]
    halves = [p for p in precisions if p != "float32"]
    wanted += [(m, p) for m in (modes if everywhere else modes[:1]) for p in halves if m != "geo" or "wire" not in PRECISIONS[p]]
    return [Way(*both) for both in wanted]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--modes", nargs="+", default=list(WITHIN), choices=list(WITHIN))
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=list(PRECISIONS))
    parser.add_argument("--all", action="store_true", help="every precision in every mode, not in the first alone")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results/auc.jsonl")
    args = parser.parse_args()
    ways = ways_of(args.modes, args.precisions, args.all)
    if not ways:
        parser.error("nothing to compare: geo refuses 16 bits on the wire")
    runs: dict[str, list[tuple[float, int]]] = {name: [] for name in ["alone", *(way.name for way in ways)]}
    with tempfile.TemporaryDirectory() as temporary:
        commands = {"alone": [str(EXAMPLE / "single.py")], **{way.name: way.command(Path(temporary)) for way in ways}}
        for seed in args.seeds:
            for name, command in commands.items():
                options = ["--samples", str(args.samples), "--seed", str(seed), "--data", str(ROOT / "data" / "ctr")]
                runs[name].append(run(command, options))
                print(f"seed {seed}  {name:<22} AUC {runs[name][-1][0]:.4f}  {runs[name][-1][1]} examples/s", flush=True)
    return 0 if all([compare(way, runs["alone"], runs[way.name], args) for way in ways]) else 1


def compare(way: Way, alone: list[tuple[float, int]], job: list[tuple[float, int]], args: argparse.Namespace) -> bool:
    """Write one way's line; return whether it is as wanted."""
    apart = [j[0] - a[0] for j, a in zip(job, alone, strict=True)]
    ratio = statistics.median(j[1] / a[1] for j, a in zip(job, alone, strict=True))
    middle = statistics.median(apart)
    line = {
        "question": f"AUC of 2 servers + 2 trainers, {way.name}, minus one machine's (same epochs)", "unit": "AUC",
        "value": middle, "spread": [min(apart), max(apart)],
        "wanted": way.within, "ratio": ratio, "ratio_of": "examples/s, job / alone", "alone": alone, "job": job,
    }  # fmt: skip
    command = f"python benchmarks/auc.py --samples {args.samples} --seeds {' '.join(map(str, args.seeds))} {way.options}"
    write("auc", line, command, args.record)
    return abs(middle) <= way.within


if __name__ == "__main__":
    sys.exit(main())
