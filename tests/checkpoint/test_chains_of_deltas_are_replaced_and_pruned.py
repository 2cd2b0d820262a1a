"""A chain of deltas ends with a full snapshot when it is long or heavy; the old one goes once nothing needs it, never before."""

from __future__ import annotations

from pathlib import Path

import pytest
from several import alone

from fleet import shelf
from fleet.parameter_server import native
from fleet.parameter_server.snapshot.verifying import faults_in
from fleet.shelf import Shelf

# Saves after each step; the table has 400 rows, of which a step moves `touched`. With `moment` the process kills itself at the
# so-many-th call that changes the directory behind the fifth save.
SCRIPT = """
import os, signal, sys
from pathlib import Path
import paddle, fleet
from fleet import disk
from fleet.parameter_server.snapshot import manifest

directory, touched, full_every, keep, saves, moment = sys.argv[1], *map(int, sys.argv[2:])
fleet.init()
net = fleet.distributed_model(paddle.nn.Sequential(paddle.nn.Embedding(400, 8), paddle.nn.Linear(8, 1)))
inner = paddle.optimizer.SGD(0.1, parameters=net.parameters())
optimizer = fleet.distributed_optimizer(inner, strategy=fleet.DistributedStrategy(parameter_server=True))
ckpt = fleet.Checkpointer(directory, model=net, optimizer=optimizer, keep=keep, full_every=full_every)
print("resumes", ckpt.restore(), ckpt.step)
calls = 0
counts = False
def fault(operation, path):
    global calls
    calls += counts
    if counts and calls == moment:
        os.kill(os.getpid(), signal.SIGKILL)
disk.fault = fault
for i in range(saves):
    counts = i >= 5
    net(paddle.to_tensor([[(ckpt.step * touched + j) % 400 for j in range(touched)]])).sum().backward()
    optimizer.step()
    optimizer.clear_grad()
    ckpt.save()
    ckpt.wait()
    found = sorted(Path(directory).glob("step-*"))
    chains = [manifest.chain(str(path / "tables")) for path in found]  # every one that is there loads
    print("has", *(f"{int(path.name[5:])}{'d' * (len(chain) - 1)}" for path, chain in zip(found, chains)))
print("calls", calls)
"""


def run(directory: Path, touched: int = 2, full_every: int = 3, keep: int = 1, saves: int = 8, moment: int = 0) -> list[str]:
    done = alone(SCRIPT, str(directory), *map(str, (touched, full_every, keep, saves, moment)))
    assert done.status == (-9 if moment else 0), done.err
    return done.out.splitlines()


def said(lines: list[str], word: str) -> list[str]:
    return [line.removeprefix(f"{word} ") for line in lines if line.startswith(f"{word} ")]


def test_a_long_chain(tmp_path: Path) -> None:
    """A letter d for each delta between a checkpoint and its full one."""
    shown = said(run(tmp_path), "has")
    assert shown == ["1", "1 2d", "1 2d 3dd", "4", "4 5d", "4 5d 6dd", "7", "7 8d"]
    again = run(tmp_path, saves=2)  # a resumed job goes on with the chain
    assert said(again, "resumes") == ["True 8"] and said(again, "has") == ["7 8d 9dd", "10"]


def test_what_a_kept_one_continues_stays(tmp_path: Path) -> None:
    shown = said(run(tmp_path, keep=3), "has")
    assert shown[3:] == ["1 2d 3dd 4", "1 2d 3dd 4 5d", "4 5d 6dd", "4 5d 6dd 7", "4 5d 6dd 7 8d"]


def test_a_heavy_chain(tmp_path: Path) -> None:
    """Each delta is a little over half of all rows: two outweigh the full one."""
    shown = said(run(tmp_path, touched=220, full_every=100, saves=5), "has")
    assert shown == ["1", "1 2d", "1 2d 3dd", "4", "4 5d"]


def check_kill(tmp_path: Path, moment: int) -> None:
    """The sixth save and those behind it replace chains and prune: all that is there loads, and one is new enough."""
    directory = tmp_path / f"killed-{moment}"
    run(directory, moment=moment)
    newest = Shelf(str(directory), 1, lambda path: [path]).newest()
    assert newest is not None and shelf.read(newest)["step"] >= 5, moment
    assert faults_in(native.load(), str(directory))[0] == [], moment


def test_killed_when_the_old_chain_goes(tmp_path: Path) -> None:
    check_kill(tmp_path, 39)
    again = run(tmp_path / "killed-39", saves=1)
    assert int(said(again, "resumes")[0].removeprefix("True ")) >= 5
    assert not [path for path in (tmp_path / "killed-39").iterdir() if not path.name.startswith("step-")]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_at_many_moments(tmp_path: Path) -> None:
    calls = int(said(run(tmp_path / "whole"), "calls")[0])
    assert calls > 40
    for moment in range(1, calls + 1, max(1, calls // 12)):
        check_kill(tmp_path, moment)
