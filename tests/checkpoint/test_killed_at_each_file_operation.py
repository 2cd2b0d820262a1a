"""A save that a kill, a full disk or a failing disk ends at any of its file operations: a whole checkpoint is always there."""

from __future__ import annotations

from pathlib import Path

import pytest
from several import alone

# A child saves and meets its fault at the n-th file operation; then whoever starts again loads what is there.
SCRIPT = """
import errno, os, sys
import paddle, fleet
from fleet import disk, shelf

directory, how = sys.argv[1:]
fleet.init()
net = fleet.distributed_model(paddle.nn.Linear(300, 1000))  # of more than one block
optimizer = fleet.distributed_optimizer(paddle.optimizer.Momentum(0.1, 0.9, parameters=net.parameters()))

def made():
    return fleet.Checkpointer(directory, model=net, optimizer=optimizer, keep=1)

def step(ckpt):
    net(paddle.ones([1, 300])).mean().backward()
    optimizer.step()
    optimizer.clear_grad()
    known[ckpt.step] = net.weight.numpy().tobytes()

def strike(moment, ckpt):
    count, seen = 0, set()
    def fault(operation, path):
        nonlocal count
        count += 1
        seen.add(operation)
        if count == moment:
            if how == "kill":
                os._exit(9)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    disk.fault = fault
    try:
        ckpt._save_or_warn()  # as every_steps does it
        ckpt.wait()
    finally:
        disk.fault = None
    return count < moment, seen

known = {}
ckpt = made()
step(ckpt)
ckpt.save()
moment, done = 0, False
while not done:
    moment += 1
    if moment % 3:  # else saved again at the same step
        step(ckpt)
    before = shelf.read(ckpt._shelf.newest())["step"]
    if how == "kill":
        child = os.fork()
        if child == 0:
            done, seen = strike(moment, ckpt)
            if done:
                print("operations", *sorted(seen), flush=True)
            os._exit(0 if done else 1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 9), status
        done = status == 0
    else:
        done, seen = strike(moment, ckpt)
    fresh = made()
    assert fresh.restore() and fresh.step in (before, ckpt.step), (moment, fresh.step, before, ckpt.step)
    assert net.weight.numpy().tobytes() == known[fresh.step], moment
    ckpt = fresh
ckpt.save()
print("moments", moment, "left", *[n for n in os.listdir(directory) if not n.startswith("step-")])
"""


@pytest.mark.parametrize("how", ["kill", "full disk"])
def test_each_operation(tmp_path: Path, how: str) -> None:
    done = alone(SCRIPT, str(tmp_path), how, timeout_s=90)
    assert done.status == 0, done.err[-3000:]
    words = done.out.split("moments ")[1].split()
    assert int(words[0]) > 20 and words[1:] == ["left"], done.out
    if how == "kill":
        assert "operations create fsync mkdir rename rmdir unlink write" in done.out
    else:
        assert done.err.count("a checkpoint was not written; training goes on") > 10 and "No space left" in done.err
