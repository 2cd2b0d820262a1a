"""A trainer's session with real servers, without Paddle: rows asked for, gradients collected and pushed as a step does it."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from servers import SECRET, Servers

from fleet import DistributedStrategy
from fleet.parameter_server.client import Table
from fleet.parameter_server.session import Session
from fleet.runtime import Share


def session(servers: Servers | None, rank: int = 0, world_size: int = 1, through: tuple[str, ...] = (), incarnation: int = 1,
            timeout_s: float = 20, **block: Any) -> Session:  # fmt: skip
    """Return a session of one of ``world_size`` trainers; ``block`` as a strategy takes it. Without servers it has its own."""
    os.environ["FLEET_SECRET"] = SECRET
    addresses = through or (servers.addresses if servers is not None else ())
    runtime: Any = SimpleNamespace(
        role=SimpleNamespace(rank=rank, world_size=world_size, servers=addresses),
        share=Share(1, 1),  # gradients count as they are
        timeout_s=timeout_s, closers=[], forgetters=[],
        meet=lambda what, payload: [payload], tell=lambda *_: None, listen=lambda *_: None,
    )  # fmt: skip
    full = DistributedStrategy(parameter_server=block).effective()["parameter_server"]
    full["on_server_loss"] = full["on_server_loss"] or "rollback"
    with mock.patch("fleet.parameter_server.session._number_of_job", lambda _: 0):  # the number that frames.Peer has
        return Session(runtime, full, incarnation)


def close(this: Session) -> None:
    """End it as fleet.shutdown does."""
    for closer in this._runtime.closers[::-1]:
        closer()


def step(this: Session, table: Table, ids: Any, gradient: Any, rate: float = 1.0) -> np.ndarray:
    """Take one step: look ids up, push a gradient (an array, or a function of the rows); return the rows ``float32[n, dim]``."""
    ids = np.asarray(ids, dtype=np.uint64)
    pulled = this.rows(table, ids, True)
    rows = np.empty((len(ids), table.spec.dim), np.float32)
    this.expand(pulled, rows)
    values = gradient(rows) if callable(gradient) else gradient
    this.collect(table, pulled, np.ascontiguousarray(values, dtype=np.float32))
    this.push(rate)
    this.clear()
    return rows
