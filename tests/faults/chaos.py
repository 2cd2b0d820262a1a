"""Random losses in every mode and role: ``python tests/faults/chaos.py 200 [SEED [NUMBER]]``. Stops at the first that ends wrong.

A job whose rows count its steps, and each sample's visits (count.py), is struck once or twice at random moments: while it
starts, trains, writes a snapshot, starts again or ends. A process is killed, told to end, stopped for a while, or for good.
Whatever it was: the job ends in time with the right count, nothing counts twice, and what is missing is what was said to be
lost, of the server or trainer that lost it. Every checkpoint is whole and holds the steps of its name, no process is left, and
a job whose launcher died resumes.

All modes, roles and actions come in turn, shuffled; the moments are random. NUMBER repeats one strike of a seed.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

import job
import judge
from kill_harness import Run, keeper_of, kill, pid_of, wait_for

BLOCKS: tuple[dict[str, Any], ...] = (
    {"consistency": "sync"}, {"consistency": "sync", "dense": "server"}, {"consistency": "half_async"}, {"consistency": "async"},
    {"consistency": "async", "dense": "server"}, {"consistency": "bounded"}, {"consistency": "geo"},
)  # fmt: skip
VICTIMS = ("server 0", "server 1", "trainer 0", "trainer 1", "launcher")
ACTIONS = ("kill", "term", "stop")
MOMENTS = ("start", "training", "training", "snapshot", "snapshot", "end")
EPOCHS = 2
STEPS = EPOCHS * judge.EPOCH_STEPS
STOPPED_S, FROZEN_S = 1.0, 5.0  # a stop that is survived; timeout_s of a job in which one is not
LIMIT_S = 120.0  # of a whole job: beyond it hangs


class Strike(NamedTuple):
    """What is done to one process of one job."""

    block: dict[str, Any]
    victim: str
    action: str
    moment: str
    step: int
    delay_s: float
    second: tuple[str, float] | None  # killed so long after the first was started again
    full_every: int

    def text(self) -> str:
        """Describe it."""
        mode = self.block["consistency"] + (" with dense on servers" if "dense" in self.block else "")
        after = f"{self.delay_s:.3f} s after {self.moment} (step {self.step})"
        second = f", then {self.second[0]} {self.second[1]:.3f} s after the restart" if self.second else ""
        return f"{mode}: {self.action} {self.victim} {after}{second}; full_every {self.full_every}"


def strikes(seed: int) -> Any:
    """Yield strikes for ever: every mode, victim and action before one comes again."""
    for turn in itertools.count():
        deck = [(*card, False) for card in itertools.product(BLOCKS, VICTIMS, ACTIONS)]
        deck += [(block, victim, "freeze", True) for block in BLOCKS[::2] for victim in ("server 0", "trainer 0", "trainer 1")]
        random.Random(f"{seed} {turn}").shuffle(deck)
        for number, (block, victim, action, _) in enumerate(deck):
            draw = random.Random(f"{seed} {turn} {number}")
            moment = "training" if action == "freeze" else draw.choice(MOMENTS)
            step = {"start": 0, "end": STEPS - 2}.get(moment, draw.choice((1, 6, 21, 41, 66, 101)))
            delay_s = draw.uniform(0, {"start": 2.5, "training": 0.3, "snapshot": 0.02, "end": 1.0}[moment])
            second = None
            if victim != "launcher" and action in ("kill", "term") and draw.random() < 0.3:
                second = draw.choice(VICTIMS[:4]), draw.uniform(0, 3.0)
            yield Strike(block, victim, action, moment, step, delay_s, second, draw.choice((1, 3)))


def do(strike: Strike, directory: Path) -> int:
    """Run one job, strike it, and judge what became of it; return how many signals found their process."""
    environ = {"FULL_EVERY": str(strike.full_every)}
    if strike.action == "freeze":
        environ["TIMEOUT_S"] = f"{FROZEN_S:g}"
    flags = ("--server_restarts", "2", "--trainer_restarts", "2")
    run = job.count(directory, strike.block, *flags, epochs=EPOCHS, **environ)
    try:
        hits = _hit(run, directory, strike)
        run.wait(LIMIT_S)
        job.is_over(run)
        ended = _judge(run, directory, strike, hits)
    finally:
        job.end(run)
    if not ended:
        _resume(directory, strike.block)
    return hits


def _hit(run: Run, directory: Path, strike: Strike) -> int:
    """Do it; return how many signals found their process."""
    assert wait_for(lambda: bool(run.run_id), 20)
    if strike.step:
        last = strike.step - (strike.step - 1) % 5
        wait_for(lambda: run.process.poll() is not None or run.says(f"at step {last}\n"), 60)
    if strike.moment == "snapshot":
        wait_for(lambda: run.process.poll() is not None or any((directory / "ckpt").glob(".tmp-*")), 20)
    if strike.action in ("kill", "term"):
        number = signal.SIGKILL if strike.action == "kill" else signal.SIGTERM
        hits = int(kill(run, strike.victim, strike.delay_s, number))
    else:
        time.sleep(strike.delay_s)
        hits = _stop(run, strike.victim, for_good=strike.action == "freeze")
    if strike.second and wait_for(lambda: "started again" in run.err or run.process.poll() is not None, 20):
        hits += kill(run, strike.second[0], strike.second[1])
    return hits


def _stop(run: Run, victim: str, for_good: bool) -> int:
    pid = pid_of(run, victim)
    if pid is None:
        return 0
    try:
        os.kill(pid, signal.SIGSTOP)
        if not for_good:
            time.sleep(STOPPED_S)
            os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return 0
    return 1


def _judge(run: Run, directory: Path, strike: Strike, hits: int) -> bool:
    """Look at what a job left; return whether it came to its end."""
    assert keeper_of(run) is None
    judge.checkpoints_hold_their_steps(run, directory)
    if strike.victim == "launcher" and strike.action != "stop" and run.status != 0:
        assert run.status in ((137,) if strike.action == "kill" else (75, 143)), run.status  # 75: the trainers had time to save
        return False
    if strike.action == "term" and "trainer" in strike.victim and run.status == 75:
        return False  # asked to end, all of them saved and did
    if run.status == 93:  # killed again before a step was taken: said so, and given up
        assert strike.second and hits == 2, run.err
        return False
    assert run.status == 0, run.status
    if strike.action == "stop":
        assert "started again" not in run.err, "nothing was lost"
    elif hits and strike.step <= 66:  # the others may find a job that is over
        assert "started again" in run.err, "a loss that nobody noticed"
    judge.what_is_missing_was_lost(run, directory, strike.block, EPOCHS)
    return True


def _resume(directory: Path, block: dict[str, Any]) -> None:
    """Start a job that ended early again: from its last checkpoint it comes to its end."""
    again = directory / "again"
    again.mkdir()
    if (directory / "ckpt").exists():
        (directory / "ckpt").rename(again / "ckpt")
    before = job.checkpoints(again)
    held = 0.0 if not before else int(before[-1].name[-8:]) - float(judge.samples_of(before[-1]).sum())
    run = job.count(again, block, epochs=EPOCHS)
    try:
        assert run.wait(LIMIT_S) == 0, run.err
        job.is_over(run)
        found = job.counted(run)
        assert found["steps"] == STEPS and judge.missing(again, EPOCHS).sum() / 4 == held, (found, held)
    finally:
        job.end(run)


def main() -> None:
    """Strike as often as asked."""
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1, 10**6)
    only = int(sys.argv[3]) if len(sys.argv) > 3 else None
    began, hits = time.monotonic(), 0
    for number, strike in zip(range(1, num + 1), strikes(seed), strict=False):
        if only in (None, number):
            directory, start = Path(tempfile.mkdtemp(prefix="fleet-chaos-")), time.monotonic()
            try:
                hits += do(strike, directory / "job")
            except BaseException:
                err = directory / "job/stderr"
                print(f"FAILED: strike {number} of seed {seed}, left in {directory}: {strike.text()}")
                print(err.read_text(errors="replace") if err.exists() else "")
                raise
            shutil.rmtree(directory)
            print(f"{number}/{num} {time.monotonic() - start:.1f} s {strike.text()}", flush=True)
    result = {"bench": "chaos", "strikes": num, "signals": hits, "wrong": 0, "hangs": 0, "orphans": 0, "seed": seed}
    print(json.dumps({**result, "seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
