"""Random losses in random modes: ``python tests/faults/chaos.py 200 [SEED]``. Stops at the first wrong result, hang or orphan.

A job whose rows count its steps (count.py) is struck at a random moment: a server or trainer killed, or stopped for a while, or the
launcher killed. Whatever it was, the job ends with the right count: none twice, and none missing but what was said.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import job
from kill_harness import Run, kill, pid_of, wait_for

from fleet import shelf
from fleet.parameter_server import block

MODES = next(field for field in block.FIELDS if field.name == "consistency").choices
VICTIMS = ("server 0", "server 1", "trainer 0", "trainer 1", "launcher")
STEPS = 128
IN_HAND = 12  # steps of a trainer that die with it: geo exchanges every 10 (k_steps), and two pushes may be under way
SINCE_CHECKPOINT = 10 + IN_HAND  # steps of a server that carries on


def strike(directory: Path, draw: random.Random) -> str:
    """Run one job, strike it once, and judge it; return what was done."""
    mode, victim = draw.choice(MODES), draw.choice(VICTIMS)
    action = draw.choice(("kill", "kill", "stop")) if victim != "launcher" else "kill"
    at_step, delay_s = draw.choice((0, 1, 6, 21, 41)), draw.uniform(0, 0.5)
    what = f"{mode}: {action} {victim} {delay_s:.3f} s after step {at_step}"
    flags = ("--server_restarts", "2", "--trainer_restarts", "2")
    run = job.count(directory, {"consistency": mode}, *flags, epochs=STEPS // 64)
    try:
        try:
            _strike(run, victim, action, at_step, delay_s)
            run.wait(120)
            _judge(run, directory, mode, victim, action)
        except BaseException:
            print(f"FAILED: {what}\n{run.err}")
            raise
    finally:
        job.end(run)
    return what


def _strike(run: Run, victim: str, action: str, at_step: int, delay_s: float) -> None:
    if at_step:
        run.until(f"at step {at_step}\n", 60)
    else:
        assert wait_for(lambda: bool(run.run_id), 20)
    if action == "kill":
        assert kill(run, victim, delay_s) or run.process.poll() is not None
        return
    time.sleep(delay_s)
    pid = pid_of(run, victim)
    if pid is not None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(pid, signal.SIGCONT)


def _judge(run: Run, directory: Path, mode: str, victim: str, action: str) -> None:
    job.is_over(run)
    for path in sorted((directory / "ckpt").glob("step-*")):
        shelf.read(str(path))
    if victim == "launcher":
        assert run.status in (137, 0), run.status
        return
    assert run.status == 0, run.status
    found, done = job.counted(run), run.err.rpartition("fleet: started again:")[2] if "started again:" in run.err else ""
    assert found["steps"] == STEPS, found
    lost = 0.0
    if "server" in victim and "alone" in done:
        lost = SINCE_CHECKPOINT
    elif "trainer" in victim and "alone" in done:
        lost = IN_HAND / 2  # one of two trainers
    assert STEPS - lost - 0.001 <= found["rows"] <= STEPS + 0.001, (found, lost)
    if action == "stop":
        assert not done, "nothing was lost"


def main() -> None:
    """Strike as often as asked."""
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1, 10**6)
    draw, began = random.Random(seed), time.monotonic()
    for number in range(num):
        with tempfile.TemporaryDirectory(prefix="fleet-chaos-") as directory:
            print(f"{number + 1}/{num} {strike(Path(directory) / 'job', draw)}", flush=True)
    result = {"bench": "chaos", "strikes": num, "wrong": 0, "hangs": 0, "orphans": 0, "seed": seed}
    print(json.dumps({**result, "seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
