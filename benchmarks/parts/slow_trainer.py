"""One trainer of slow_link.py: train over the link until the held-out loss is reached; trainer 0 prints what it took."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle import nn

import fleet
from fleet import runtime
from fleet.group import Group

WIDTH, INPUTS, CLASSES, CENTRES = 1024, 64, 10, 20
FIRST = 5  # steps before the clock starts: memory and groups are made in them, also where gradients meet every fourth step only
EVERY = 4  # steps between two looks at the held-out loss, on a stopped clock; all replicas are equal there


def data() -> dict[str, Any]:
    """Return what is to be learned: clouds around CENTRES points a class; float32[n, INPUTS], int64[n]."""
    random = np.random.default_rng(7)
    centres = random.normal(size=(CLASSES * CENTRES, INPUTS)).astype(np.float32)
    cloud = random.integers(0, len(centres), 8192 + 1024)
    x = centres[cloud] + 0.6 * random.normal(size=(cloud.size, INPUTS)).astype(np.float32)
    return {"x": x.astype(np.float32), "y": (cloud % CLASSES).astype(np.int64)}


def make(rate: float) -> tuple[Any, Any]:
    """Return model and optimizer, the same weights each time."""
    paddle.seed(3)
    model = nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))
    return model, paddle.optimizer.Momentum(rate, 0.9, model.parameters())


class Paced:
    """Make a collective of fleet's groups take as long as its bytes take over the link, where no link can be made.

    Two trainers: each sends its payload once, in a sum and in a gathering alike.
    """

    sent_bytes = 0

    def __init__(self, megabits: int) -> None:
        self._bytes_a_second = megabits * 125_000
        for name in ("all_reduce_sum_", "gather_words"):
            setattr(Group, name, self._slowed(getattr(Group, name)))

    def _slowed(self, collective: Callable[..., Any]) -> Callable[..., Any]:
        def slowed(group: Group, tensor: Any, where: str) -> Any:
            began, num_bytes = time.perf_counter(), int(tensor.size) * tensor.element_size()
            found = collective(group, tensor, where)
            time.sleep(max(0.0, began + num_bytes / self._bytes_a_second - time.perf_counter()))
            Paced.sent_bytes += num_bytes
            return found

        return slowed


def sent_bytes(paced: bool) -> int:
    """Return the bytes that left this end of the link so far."""
    if paced:
        return Paced.sent_bytes
    with open("/proc/self/net/dev", encoding="ascii") as file:
        return next(int(line.split(":")[1].split()[8]) for line in file if line.strip().startswith("eth0:"))


def step(model: Any, optimizer: Any, x: Any, y: Any) -> None:
    """Take one training step."""
    nn.functional.cross_entropy(model(paddle.to_tensor(x)), paddle.to_tensor(y)).backward()
    optimizer.step()
    optimizer.clear_grad()


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("strategy", type=json.loads)
    parser.add_argument("--loss", type=float, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--most_steps", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--check", action="store_true", help="compare with one process that takes whole batches")
    parser.add_argument("--paced", type=int, default=0, help="Mb/s; 0: there is a link")
    given = parser.parse_args()
    paced = bool(given.paced and Paced(given.paced))
    fleet.init(strategy=fleet.DistributedStrategy(batch="per_trainer", **given.strategy))
    job = runtime.current("the benchmark")
    rank, world_size = job.role.rank, job.role.world_size
    rows, held = data(), slice(8192, None)
    x_held, y_held = paddle.to_tensor(rows["x"][held]), paddle.to_tensor(rows["y"][held])

    def loss_of(model: Any) -> float:
        with paddle.no_grad():
            return float(nn.functional.cross_entropy(model(x_held), y_held))

    plain, plain_optimizer = make(given.rate)
    model, optimizer = make(given.rate)
    model, optimizer = fleet.distributed_model(model), fleet.distributed_optimizer(optimizer)
    order = np.random.default_rng(1)
    took_s, begin_bytes, apart, curve = 0.0, 0, 0.0, []
    began = time.perf_counter()
    for number in range(1, given.most_steps + 1):
        picks = order.integers(0, 8192, given.batch)
        mine = picks[rank::world_size]
        step(model, optimizer, rows["x"][mine], rows["y"][mine])
        if number < FIRST or (number - FIRST) % EVERY:
            if given.check:
                step(plain, plain_optimizer, rows["x"][picks], rows["y"][picks])
            continue
        job.meet("a look at the loss")
        took_s = took_s + time.perf_counter() - began if number > FIRST else 0.0
        begin_bytes = begin_bytes if number > FIRST else sent_bytes(paced)
        curve.append(round(loss_of(model), 4))
        if given.check:
            step(plain, plain_optimizer, rows["x"][picks], rows["y"][picks])
            apart = max(apart, abs(curve[-1] - loss_of(plain)))
            assert apart < 0.01, f"after {number} steps the loss is {apart} away from that of one process"
        reached = float(job.meet("the loss", repr(curve[-1]).encode())[0]) <= given.loss
        if reached and number > FIRST:
            break
        began = time.perf_counter()
    num_timed = number - FIRST
    if rank == 0:
        num_bytes = round((sent_bytes(paced) - begin_bytes) / num_timed)
        found = {"reached": reached, "s": took_s, "steps": number, "bytes_a_step": num_bytes, "step_ms": took_s / num_timed * 1e3,
                 "curve": curve, "apart_from_one_process": apart}  # fmt: skip
        print("took " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
