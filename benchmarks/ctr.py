"""How fast does CTR-DNN train on a parameter server, beside Paddle 2.6.2's own, to the same AUC?

    python benchmarks/ctr.py [--samples 360000] [--epochs 2] [--repeats 5] [--record]

The race: batch 512 a trainer on both sides, lazy Adam 1e-3, 26 ids through one shared table of dim 10, 13 numbers, 3 x 400; the
same data (Criteo format, planted signal), decoded and in memory before the clock starts; all epochs count. Ours: async, one
server, the better of one and two trainers. The rival: InMemoryDataset, async, one server, one trainer with four threads, in an
environment that this script makes once (benchmarks/.paddle262). On an AMD processor our launcher tells MKL to use AVX2
(docs/tuning.md): there the rival runs a second time with the same variable, and both ratios are given. Runs take turns; each
gives its AUC on held-out data; ours must not be lower than the rival's by more than 0.003 (medians). Exit status 1 if it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fleet.data import criteo  # noqa: E402
from fleet.launch import devices  # noqa: E402
from fleet.launch.spec import MKL  # noqa: E402

RIVAL_ENVIRONMENT = ROOT / "benchmarks" / ".paddle262"
BATCH, THREADS, BUCKETS = 512, 4, 2_000_003


def make_data(home: Path, num_samples: int) -> None:
    """Write the data once: raw text, packs for us, the MultiSlot text that the rival reads."""
    if (home / "ready").exists():
        return
    shutil.rmtree(home, ignore_errors=True)
    criteo.generate(home, num_samples, seed=0)
    for part in ("train", "test"):
        criteo.pack(home / part, home / f"{part}.pack", num_buckets=BUCKETS)
    train, test = criteo.open_pack(home / "train.pack"), criteo.open_pack(home / "test.pack")
    np.savez(home / "test.npz", **test)
    np.save(home / "train_count.npy", len(train["label"]))
    (home / "multislot").mkdir()
    for part, at in enumerate(np.array_split(np.arange(len(train["label"])), 8)):
        with open(home / "multislot" / f"part-{part}", "w") as file:
            for ids, dense, label in zip(train["ids"][at], train["dense"][at], train["label"][at], strict=True):
                numbers = " ".join(f"{v:.6g}" for v in dense)
                file.write(f"1 {int(label)} " + " ".join(f"1 {i}" for i in ids) + f" 13 {numbers}\n")
    (home / "ready").touch()


def rival_python() -> Path:
    """Return the interpreter of the rival's environment, made at first use."""
    python = RIVAL_ENVIRONMENT / "bin" / "python"
    if not (RIVAL_ENVIRONMENT / "ready").exists():
        print("making the rival's environment (paddlepaddle 2.6.2)", flush=True)
        shutil.rmtree(RIVAL_ENVIRONMENT, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(RIVAL_ENVIRONMENT)], check=True)
        wanted = ["paddlepaddle==2.6.2", "numpy<2", "protobuf<5", "setuptools"]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted], check=True)
        (RIVAL_ENVIRONMENT / "ready").touch()
    return python


def result_of(text: str) -> dict[str, Any]:
    """Return the RESULT that a run printed."""
    for line in text.splitlines():
        if line.startswith("RESULT "):
            found: dict[str, Any] = json.loads(line[7:])
            found["rate"] = found["examples"] * len(found["seconds"]) / sum(found["seconds"])
            return found
    raise SystemExit(f"a run printed no RESULT:\n{text[-3000:]}")


def run_ours(home: Path, epochs: int, trainers: int, consistency: str) -> dict[str, Any]:
    """Train once with fleet."""
    script = [str(ROOT / "benchmarks" / "jobs" / "ctr_fleet.py"), str(home), str(epochs), str(BATCH), consistency]
    launch = [sys.executable, "-m", "fleet.launch", "--device", "cpu", "--server_num", "1", "--trainer_num", str(trainers)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [*launch, "--log_dir", str(home / "logs" / str(time.time_ns())), *script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return result_of(done.stdout + done.stderr)


def run_rival(home: Path, epochs: int, **more: str) -> dict[str, Any]:
    """Train once with Paddle 2.6.2: start server and trainer with the variables that its own launcher sets, and ``more``."""
    held = [socket.socket() for _ in range(3)]
    for line in held:
        line.bind(("127.0.0.1", 0))
    server, trainer, gloo = (f"127.0.0.1:{line.getsockname()[1]}" for line in held)
    for line in held:
        line.close()
    work = home / "rival"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    common = {
        **os.environ, "OMP_NUM_THREADS": "1", "PADDLE_NNODES": "1", "PADDLE_TRAINERS_NUM": "1", "POD_IP": "127.0.0.1",
        "PADDLE_PSERVERS_IP_PORT_LIST": server, "PADDLE_TRAINER_ENDPOINTS": trainer, "PADDLE_WITH_GLOO": "1",
        "PADDLE_GLOO_RENDEZVOUS": "3", "PADDLE_GLOO_FS_PATH": str(work / "gloo"), "PADDLE_GLOO_HTTP_ENDPOINT": gloo,
        **more,
    }  # fmt: skip
    command = [str(rival_python()), "-W", "ignore", str(ROOT / "benchmarks" / "jobs" / "ctr_paddle262.py")]
    command += [str(home), str(epochs), str(BATCH), str(THREADS)]

    def start(role: str, endpoint: str) -> subprocess.Popen[str]:
        variables = {**common, "TRAINING_ROLE": role, "PADDLE_ROLE": role, "PADDLE_TRAINER_ID": "0"}
        variables["PADDLE_PORT"] = endpoint.split(":")[1]
        log = open(work / f"{role}.log", "w")  # closed with this process; read below
        return subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT, text=True, cwd=work)

    serving = start("PSERVER", server)
    try:
        start("TRAINER", trainer).wait(timeout=1800)
    finally:
        serving.kill()  # this server never ends by itself
        serving.wait()
    found = result_of((work / "TRAINER.log").read_text())
    labels, scores = np.load(home / "test.npz")["label"], np.load(home / "rival_scores.npy")
    found["auc"] = auc(scores, labels)
    return found


def auc(scores: Any, labels: Any) -> float:
    """Return the area under the ROC curve."""
    values, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    positive = np.bincount(group, labels, len(values))
    negative = sizes - positive
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))


def spread(runs: list[dict[str, Any]], name: str) -> tuple[float, list[float]]:
    """Return the median and [lowest, highest]."""
    values = [r[name] for r in runs]
    return statistics.median(values), [min(values), max(values)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=360_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", default=str(ROOT / "data" / "ctr" / "race"))
    parser.add_argument("--consistency", default="async", choices=("sync", "async"))
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results/ctr.jsonl")
    args = parser.parse_args()
    home = Path(args.data) / str(args.samples)
    make_data(home, args.samples)
    rival_python()
    contenders = {
        "rival": lambda: run_rival(home, args.epochs),
        "rival, tuned": lambda: run_rival(home, args.epochs, **MKL),
        "1 trainer": lambda: run_ours(home, args.epochs, 1, args.consistency),
        "2 trainers": lambda: run_ours(home, args.epochs, 2, args.consistency),
    }
    if not devices.needs_mkl_told():
        del contenders["rival, tuned"]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for repeat in range(args.repeats):
        for name, run in contenders.items():
            runs[name].append(run())
            print(f"{repeat}  {name:<10}  {runs[name][-1]['rate']:8.0f} examples/s  AUC {runs[name][-1]['auc']:.4f}", flush=True)
    rates = {name: spread(found, "rate") for name, found in runs.items()}
    best = max(("1 trainer", "2 trainers"), key=lambda name: rates[name][0])
    aucs = {name: spread(found, "auc") for name, found in runs.items()}
    rivals = [name for name in contenders if name.startswith("rival")]
    equal = all(aucs[best][0] >= aucs[rival][0] - 0.003 for rival in rivals)
    pairs = {rival: sorted(a["rate"] / b["rate"] for a, b in zip(runs[best], runs[rival], strict=True)) for rival in rivals}
    line = {
        "name": f"ctr {args.consistency}", "unit": "examples/s", "value": rates[best][0], "spread": rates[best][1], "ours": best,
        "rival": "paddle 2.6.2 InMemoryDataset, 1 trainer x 4 threads", "rival_value": rates["rival"][0],
        "rival_spread": rates["rival"][1], "ratio": statistics.median(pairs["rival"]),
        "ratios": {rival: [statistics.median(p), p[0], p[-1]] for rival, p in pairs.items()},
        "auc": aucs[best], "rival_auc": {rival: aucs[rival] for rival in rivals}, "equal_auc": equal,
        "other": {name: rates[name] for name in contenders if name not in (best, "rival")},
        **about(f"python benchmarks/ctr.py --samples {args.samples} --epochs {args.epochs} --repeats {args.repeats}"),
    }  # fmt: skip
    print(json.dumps(line))
    if args.record:
        with open(ROOT / "benchmarks" / "results" / "ctr.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
    return 0 if equal else 1


def about(command: str) -> dict[str, str]:
    """Return machine, commit and command."""
    model = next((x.split(":")[1].strip() for x in open("/proc/cpuinfo") if x.startswith("model name")), "unknown")
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {"machine": f"{model}, {os.cpu_count()} cores", "commit": git.stdout.strip(), "command": command}


if __name__ == "__main__":
    sys.exit(main())
