"""Saving: twice at a step, alone, on a full disk, killed in the middle. The last good checkpoint is always there."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from several import alone


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    target = tmp_path / "disk"
    target.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(target)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    yield target
    subprocess.run(["umount", "-l", str(target)], check=True)


@pytest.mark.parametrize("trainers, servers, dim, tables", [(2, 1, 800, True), (2, 0, 4, False)])
def test_a_full_disk(play: Callable[..., Any], small_disk: Path, trainers: int, servers: int, dim: int, tables: bool) -> None:
    """With dim 800 the snapshot of the tables is what does not fit, else the first file."""
    for error, names in play("fills_disk", trainers, servers, directory=str(small_disk), dim=dim, tables=tables):
        assert "No space left on device" in error and "free space" in error and str(small_disk) in error
        assert names[0] == ["step-00000002"]
        assert [n for n in names[1] if n not in ("filler",)] == ["step-00000002"]  # intact, and nothing half-written beside it
        assert names[2] == ["step-00000004"]


def test_the_disk_of_one_trainer(play: Callable[..., Any], checkpoint_pair: Any, tmp_path: Path) -> None:
    for step, error, names, after in play("disk_of_one_fails", 2, directory=str(tmp_path)):
        assert step == 6 and names == ["step-00000002"] and after == ["step-00000002", "step-00000006"]
        assert "trainer 1: the checkpoint could not be written: No space left" in error and "trainer-1.rng" in error
    assert "a checkpoint was not written; training goes on" in checkpoint_pair.log(0)


def test_twice_at_the_same_step(play: Callable[..., Any], tmp_path: Path) -> None:
    assert play("save_twice", 2, 1, directory=str(tmp_path)) == [[["step-00000002"]] * 2] * 2
    for ((error, _, step),) in play("loads", 2, 1, directories=[str(tmp_path)], has_loader=False):
        assert (error, step) == (None, 2)


@pytest.mark.parametrize("what", ["Checkpointer.save", "Checkpointer.restore", "fleet.save", "fleet.load"])
def test_a_trainer_that_saves_alone(checkpoint_pair: Any, tmp_path: Path, what: str) -> None:
    (error, seconds), _ = checkpoint_pair.run("checkpoint.jobs:saves_alone", world_size=2, directory=str(tmp_path), what=what)
    assert error.startswith("PeerLost") and "trainer 1" in error and "fix:" in error
    assert 0.5 < seconds < 3
    assert list(tmp_path.iterdir()) == []


# Counts the file operations of the second save, and kills itself at the n-th.
KILLED = """
import os, signal, sys
import paddle, fleet
from fleet import disk

moment, directory = int(sys.argv[1]), sys.argv[2]
fleet.init()
net = fleet.distributed_model(paddle.nn.Sequential(paddle.nn.Embedding(9, 3), paddle.nn.Linear(3, 1)))
inner = paddle.optimizer.SGD(0.1, parameters=net.parameters())
optimizer = fleet.distributed_optimizer(inner, strategy=fleet.DistributedStrategy(parameter_server=True))
ckpt = fleet.Checkpointer(directory, model=net, optimizer=optimizer, keep=1)
print("resumes", ckpt.restore(), ckpt.step)
ckpt.save()
ckpt.wait()
leftovers = [n for n in os.listdir(directory) if not n.startswith("step-")]
print("leftovers", leftovers)
calls = 0
def fault(operation, path):
    global calls
    calls += 1
    if calls == moment:
        os.kill(os.getpid(), signal.SIGKILL)
disk.fault = fault
net(paddle.to_tensor([[1, 2]])).sum().backward()
optimizer.step()
if moment % 2:
    ckpt.step -= 1  # saved again at the same step
ckpt.save()
ckpt.wait()
print("calls", calls)
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_at_many_moments(tmp_path: Path) -> None:
    """With tables; test_killed_at_each_file_operation.py takes every moment of a job without."""
    whole = alone(KILLED, "0", str(tmp_path / "whole"))
    calls = int(whole.out.split("calls ")[1])
    assert calls > 15
    for moment in range(1, calls + 1, 3):
        check_kill(tmp_path, moment)


def test_killed_at_some_moments(tmp_path: Path) -> None:
    for moment in (3, 13):
        check_kill(tmp_path, moment)


def check_kill(tmp_path: Path, moment: int) -> None:
    directory = str(tmp_path / f"killed-{moment}")
    killed = alone(KILLED, str(moment), directory)
    assert killed.status == -9, (moment, killed)
    again = alone(KILLED, "0", directory)
    assert again.status == 0, (moment, again.err)
    assert "resumes True" in again.out and "leftovers []" in again.out, (moment, again.out)


def test_a_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = alone(f"""
import paddle, fleet
fleet.init()
net = fleet.distributed_model(paddle.nn.Linear(1, 1))
optimizer = fleet.distributed_optimizer(paddle.optimizer.SGD(parameters=net.parameters()))
for bad in (dict(every_steps=0), dict(every_steps=True), dict(keep=0), dict(loader=[1])):
    try:
        fleet.Checkpointer({str(tmp_path)!r}, model=net, optimizer=optimizer, **bad)
        print("accepted", bad)
    except fleet.errors.ConfigError as error:
        print("refused")
fleet.Checkpointer({str(tmp_path / "file")!r}, model=net, optimizer=optimizer)
""")
    assert done.out.split() == ["refused"] * 4
    assert done.status == 1 and "ConfigError: " in done.err and "is a file" in done.err and "fix:" in done.err
