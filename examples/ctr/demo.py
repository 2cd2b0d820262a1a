"""Trains the example alone and as 1 server + 2 trainers, and compares: what ``make demo`` runs.

    python examples/ctr/demo.py [options of single.py and train.py]

Exits with 1 if the two AUCs are further apart than chance allows in ``sync``.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MOST_APART = 0.003  # of the AUC; measured between equal runs: below 0.001
RESULT = re.compile(r"^AUC (\d\.\d+), (\d+) examples/s", re.M)
STEP = re.compile(r"epoch (\d+) step (\d+)/(\d+) (.*)")


QUIET = "ignore::UserWarning:paddle.utils.cpp_extension.extension_utils"  # "No ccache found": of no concern here


def environ():
    """Return this process's variables, with this tree importable: the example also runs where fleet is not installed."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {"PYTHONWARNINGS": QUIET, **os.environ, "PYTHONPATH": path}


def run_alone(log, options):
    """Run single.py into ``log``, with its steps as a bar; return its exit status."""
    began = time.monotonic()
    bar = sys.stdout.isatty()
    process = subprocess.Popen([sys.executable, "-u", str(HERE / "single.py"), *options], env=environ(),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    with process, open(log, "w") as file:
        for line in process.stdout:
            file.write(line)
            step = STEP.match(line)
            if step and bar:
                epoch, done, steps, rest = step.groups()
                filled = round(24 * int(done) / int(steps))
                shown = f"epoch {epoch}  step {done}/{steps} [{'#' * filled}{'.' * (24 - filled)}]  {rest}"
                print(f"\r{shown}  {time.monotonic() - began:.0f} s\x1b[K", end="", flush=True)
            else:
                print(("\r\x1b[K" if bar else "") + line, end="", flush=True)
    return process.returncode


def run_job(directory, options):
    """Run train.py as 1 server + 2 trainers; the launcher shows trainer 0 and its progress line."""
    command = [sys.executable, "-m", "fleet.launch", "--server_num", "1", "--trainer_num", "2", "--device", "cpu"]
    return subprocess.call([*command, "--log_dir", str(directory), str(HERE / "train.py"), *options], env=environ())


def result_of(log, status):
    """Return AUC and examples/s that a run printed; ends the demo if it failed."""
    found = RESULT.search(log.read_text(errors="replace")) if log.exists() else None
    if status or not found:
        sys.exit(f"the run failed with status {status}; its log: {log}")
    return float(found[1]), int(found[2])


def main():
    options = sys.argv[1:]
    logs = Path.cwd() / "fleet_runs" / time.strftime("demo-%Y%m%d-%H%M%S")
    logs.mkdir(parents=True)
    began = time.monotonic()

    print("== alone: examples/ctr/single.py, plain Paddle", flush=True)
    status = run_alone(logs / "single.log", options)
    single = result_of(logs / "single.log", status)

    print("\n== 1 server + 2 trainers: examples/ctr/train.py under python -m fleet.launch", flush=True)
    status = run_job(logs / "job", options)
    job = result_of(logs / "job" / "trainer-0.log", status)

    width = shutil.get_terminal_size().columns
    print("\n" + "-" * min(width, 72))
    print(f"{'':24}{'AUC':>8}{'examples/s':>14}")
    for name, (auc, rate) in (("single", single), ("1 server + 2 trainers", job)):
        print(f"{name:24}{auc:8.4f}{rate:14,}")
    print(f"{'difference':24}{job[0] - single[0]:+8.4f}{'x %.2f' % (job[1] / single[1]):>14}")
    print(f"logs: {os.path.relpath(logs)}   ({time.monotonic() - began:.0f} s in all)\n")
    print(f"single: AUC {single[0]:.4f}, {single[1]} examples/s")
    print(f"1 server + 2 trainers: AUC {job[0]:.4f}, {job[1]} examples/s")
    if abs(job[0] - single[0]) > MOST_APART:
        sys.exit(f"the AUCs differ by more than {MOST_APART}, which sync does not allow")


if __name__ == "__main__":
    main()
