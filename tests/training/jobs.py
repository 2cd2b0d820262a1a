"""What trainers run in the tests of training.py: each function is one job from init to shutdown."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from checkpoint.jobs import job
from paddle import nn

import fleet
from fleet import DistributedStrategy as Strategy
from fleet.training import job as job_in_hand

WORDS = np.random.default_rng(1).integers(0, 20, (21, 2))
Y = np.random.default_rng(2).standard_normal((21, 1)).astype(np.float32)


class Net(nn.Layer):
    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(20, dim)
        self.out = nn.Linear(dim, 1)

    def forward(self, words: Any) -> Any:
        return self.out(self.words(words).mean(axis=1))


def adam(net: Any, **more: Any) -> Any:
    return paddle.optimizer.Adam(0.1, parameters=net.parameters(), lazy_mode=True, **more)


def source(shuffle: bool = False, batch_size: int = 8) -> Any:
    return fleet.data.ArrayLoader({"words": WORDS, "y": Y}, batch_size, shuffle=shuffle)


def one_step(net: Any, optimizer: Any, words: Any = WORDS, y: Any = Y) -> Any:
    loss = nn.functional.mse_loss(net(paddle.to_tensor(words)), paddle.to_tensor(y))
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()
    return loss


# Each case does something that must be refused. ``rank`` lets trainers differ.

PS = {"parameter_server": {"consistency": "sync"}}


def never_shared() -> None:
    net = fleet.distributed_model(Net())
    one_step(net, fleet.distributed_optimizer(adam(net)))


def strategies_differ() -> None:
    net = fleet.distributed_model(Net())
    fleet.distributed_optimizer(adam(net), strategy=Strategy(seed=fleet.rank()))


def modes_differ() -> None:
    net = fleet.distributed_model(Net())
    fleet.distributed_optimizer(adam(net), strategy=Strategy(**PS) if fleet.rank() else Strategy())


def models_differ() -> None:
    net = fleet.distributed_model(Net(4 + fleet.rank()))
    fleet.distributed_optimizer(adam(net))


def second_model() -> None:
    fleet.distributed_model(Net())
    fleet.distributed_model(Net())


def second_optimizer() -> None:
    net = fleet.distributed_model(Net())
    fleet.distributed_optimizer(adam(net))
    fleet.distributed_optimizer(adam(net))


def second_init() -> None:
    fleet.init()


def second_strategy() -> None:
    net = fleet.distributed_model(Net(), strategy=Strategy(seed=1))
    fleet.distributed_optimizer(adam(net), strategy=Strategy(seed=2))


def late_strategy() -> None:
    fleet.distributed_loader(source())
    net = fleet.distributed_model(Net())
    fleet.distributed_optimizer(adam(net), strategy=Strategy(seed=2))


def changed_strategy() -> None:
    strategy = Strategy(seed=1)
    net = fleet.distributed_model(Net())
    fleet.distributed_optimizer(adam(net), strategy=strategy)
    strategy.seed = 2
    fleet.distributed_loader(source(), strategy=strategy)


def no_strategy_object() -> None:
    fleet.distributed_model(Net(), strategy={"seed": 1})  # type: ignore[arg-type]


def no_model() -> None:
    fleet.distributed_model("net")


def no_optimizer() -> None:
    fleet.distributed_optimizer("adam")


def tables_without_servers() -> None:
    net = fleet.distributed_model(Net())
    fleet.distributed_optimizer(adam(net), strategy=Strategy(**PS))


def servers_but_off() -> None:
    net = fleet.distributed_model(Net())
    fleet.distributed_optimizer(adam(net), strategy=Strategy(parameter_server=False))


def tables_without_model() -> None:
    fleet.distributed_optimizer(adam(Net()), strategy=Strategy(**PS))


def table_without_block() -> None:
    net = fleet.distributed_model(nn.Sequential(fleet.parameter_server.Embedding(3), nn.Linear(3, 1)))
    fleet.distributed_optimizer(adam(net))


def _refused(make: Callable[[Any], Any]) -> Callable[[], None]:
    def case() -> None:
        net = fleet.distributed_model(Net())
        fleet.distributed_optimizer(make(net), strategy=Strategy(**PS))

    return case


def _announces(ids: Any) -> Callable[[], None]:
    def case() -> None:
        net = fleet.distributed_model(Net())
        optimizer = fleet.distributed_optimizer(adam(net), strategy=Strategy(**PS))
        chosen = ids(net) if getattr(ids, "__name__", "") == "<lambda>" and ids.__code__.co_varnames == ("net",) else ids
        for batch in fleet.distributed_loader(source(), ids=chosen):
            one_step(net, optimizer, batch["words"], batch["y"])

    return case


opt = paddle.optimizer
CASES: dict[str, Callable[[], None]] = {
    f.__name__: f
    for f in (never_shared, strategies_differ, modes_differ, models_differ, second_model, second_optimizer, second_init,
              second_strategy, late_strategy, changed_strategy, no_strategy_object, no_model, no_optimizer,
              tables_without_servers, servers_but_off, tables_without_model, table_without_block)
}  # fmt: skip
CASES |= {
    "lamb": _refused(lambda net: opt.Lamb(0.1, parameters=net.parameters())),
    "l1_decay": _refused(lambda net: opt.SGD(0.1, parameters=net.parameters(), weight_decay=paddle.regularizer.L1Decay(0.1))),
    "grad_clip": _refused(lambda net: opt.SGD(0.1, parameters=net.parameters(), grad_clip=nn.ClipGradByGlobalNorm(1.0))),
    "groups": _refused(lambda net: opt.SGD(0.1, parameters=[{"params": net.parameters()}])),
    "amsgrad": _refused(lambda net: opt.Adam(0.1, parameters=net.parameters(), amsgrad=True)),
    "ids_of_a_linear": _announces(lambda net: {"words": net.out}),
    "ids_of_no_field": _announces(lambda net: {"wrods": net.words}),
    "ids_by_a_function_of_nothing": _announces(lambda net: lambda batch: None),
    "ids_a_list": _announces([1]),
}


def raised(world_size: int, case: str, servers: tuple[str, ...] = (), secret: str = "") -> Any:
    """Return what a case raises: "Type: text"."""
    if int(os.environ["FLEET_RANK"]) >= world_size:
        return None
    with job(world_size, servers, secret):
        found = "nothing"
        try:
            CASES[case]()
        except Exception as error:  # noqa: BLE001 - the test judges it
            found = f"{type(error).__name__}: {error}"
        with contextlib.suppress(fleet.errors.FleetError):
            fleet.barrier()
        return found


# What must work.


def announced(world_size: int, how: str, servers: tuple[str, ...] = (), secret: str = "") -> Any:
    """Train two epochs with ids announced in one way or not at all; return the rows and how many pulls were announced."""
    if int(os.environ["FLEET_RANK"]) >= world_size:
        return None
    with job(world_size, servers, secret):
        paddle.seed(3)
        net = fleet.distributed_model(Net())
        early = None
        if how == "before the optimizer":
            early = fleet.distributed_loader(source(True), ids={"words": net.words}, strategy=Strategy(**PS))
        optimizer = fleet.distributed_optimizer(adam(net), strategy=Strategy(**PS))
        if how == "index":
            pairs = paddle.io.TensorDataset([paddle.to_tensor(WORDS), paddle.to_tensor(Y)])
            loader = fleet.distributed_loader(paddle.io.DataLoader(pairs, batch_size=8), ids={0: net.words})
        else:
            ids = {"key": {"words": net.words}, "function": lambda batch: {net.words: batch["words"]}}.get(how)
            loader = early or fleet.distributed_loader(source(True), ids=ids)
        used = 0
        for _ in range(2):
            for batch in loader:
                words, y = (batch["words"], batch["y"]) if isinstance(batch, dict) else batch
                loss = nn.functional.mse_loss(net(words), y)
                used += any(a.used for a in job_in_hand().session._announced)
                loss.backward()
                optimizer.step()
                optimizer.clear_grad()
        rows = net.words.download()
        fleet.barrier()
        return rows, used


def equal_strategies(world_size: int) -> Any:
    """Give equal strategies again and again, also after a file has filled the job's own; return what is in force."""
    with job(world_size):
        strategy = Strategy(seed=5)
        net = fleet.distributed_model(Net(), strategy=strategy)
        strategy.batch = "per_trainer"  # the script goes on filling in its object
        optimizer = fleet.distributed_optimizer(adam(net), strategy=strategy)
        fleet.distributed_loader(source(), strategy=Strategy(seed=5, batch="per_trainer"))
        assert not strategy.is_set("parameter_server")
        one_step(net, optimizer)
        return job_in_hand().strategy().effective()


def evaluated(world_size: int, servers: tuple[str, ...] = (), secret: str = "") -> Any:
    """Evaluate 21 samples in batches of 4 (the last holds one): return how many each trainer saw, and the metrics over all."""
    if int(os.environ["FLEET_RANK"]) >= world_size:
        return None
    with job(world_size, servers, secret):
        net = fleet.distributed_model(Net())
        fleet.distributed_optimizer(adam(net), strategy=Strategy(**PS))
        net.eval()
        seen, scores, labels = 0, [], []
        with paddle.no_grad():
            for batch in fleet.distributed_loader(source(batch_size=4), ids={"words": net.words}):
                seen += len(batch["y"])
                scores.append(batch["y"].numpy().reshape(-1))
                labels.append((batch["words"].numpy()[:, 0] > 9).astype(np.int64))
        tables = job_in_hand().session.client.status()[0]["tables"]["words"]["rows"]
        return seen, fleet.metrics.auc(scores, labels), fleet.metrics.mean(scores), fleet.metrics.mae(scores, labels), tables


def logged(world_size: int, how: str) -> Any:
    """Log for 6 steps in one way or another; return what trainer 0 printed, and the notes that its board still keeps."""
    if int(os.environ["FLEET_RANK"]) >= world_size:
        return None
    out = io.StringIO()
    os.environ["FLEET_PROGRESS"] = "0"
    with contextlib.redirect_stdout(out), job(world_size):
        from fleet import display, progress

        display.Lines.interval_s = 0.0
        boards: list[Any] = []
        opened = progress.Board.__init__
        progress.Board.__init__ = lambda board, runtime: (boards.append(board), opened(board, runtime))[1]  # type: ignore
        try:
            net = fleet.distributed_model(Net())
            optimizer = fleet.distributed_optimizer(adam(net))
            loader = fleet.distributed_loader(source(batch_size=6))  # 21 samples: 6, 6, 6, 3: parts of 3+3 and 2+1
            for epoch in range(2):
                for step, batch in enumerate(loader):
                    one_step(net, optimizer, batch["words"], batch["y"])
                    value = float(10 * epoch + step + fleet.rank())
                    if how == "alike" or fleet.rank() == 0:
                        fleet.log(loss=value)
                    elif how == "more often":
                        fleet.log(loss=-1.0)
                        fleet.log(loss=value)
                    elif how == "seldom" and step % 2:
                        fleet.log(loss=value)
            fleet.barrier()
        finally:
            progress.Board.__init__ = opened  # type: ignore[method-assign]
    return out.getvalue(), sum(len(b._open) for b in boards)


def profiled(world_size: int, path: str, mode: str = "", slow: int = -1, steps: int = 3, stops_early: int = -1,
             servers: tuple[str, ...] = (), secret: str = "") -> Any:  # fmt: skip
    """Profile ``steps`` steps of a job, twice; return what trainer 0 printed."""
    import time

    if int(os.environ["FLEET_RANK"]) >= world_size:
        return None
    out = io.StringIO()
    block = {"consistency": mode} if mode else None
    with contextlib.redirect_stdout(out), job(world_size, servers, secret):
        net = fleet.distributed_model(Net())
        optimizer = fleet.distributed_optimizer(adam(net), strategy=Strategy(parameter_server=block))
        loader = fleet.distributed_loader(source(batch_size=6), ids={"words": net.words} if mode else None)
        fleet.profile(steps, after=1, path=path)
        for _ in range(2):
            for batch in loader:
                if fleet.rank() == slow:
                    time.sleep(0.02)
                one_step(net, optimizer, batch["words"], batch["y"])
                if fleet.rank() == stops_early and fleet.runtime.current("test").steps == 3:
                    break  # the others find out at their next backward
            if steps < 4:
                fleet.profile(2, after=0, path=path + "2")
    return out.getvalue()
