"""fleet: a single-machine PaddlePaddle script as a job of many processes, in ten lines.

Public names live in their home modules and are loaded on first use, so that importing fleet imports neither Paddle nor
NumPy. Names of ``paddle.distributed.fleet`` that are not listed here come from :mod:`fleet.paddle_names`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleet import data, errors, metrics, parameter_server, tracking
    from fleet.checkpoint import Checkpointer
    from fleet.collective.strategies.codec import Codec
    from fleet.collective.strategies.hooks import Strategy
    from fleet.exchange import all_gather, all_reduce, broadcast, mean_loss
    from fleet.fanout.current import current
    from fleet.fanout.grid import grid
    from fleet.fanout.member import member
    from fleet.fanout.spread import gather, spread
    from fleet.parameter_server.export import export
    from fleet.profiling import profile
    from fleet.progress import log, log_to
    from fleet.runtime import (
        barrier,
        init,
        is_initialized,
        is_server,
        local_rank,
        rank,
        shutdown,
        world_size,
    )
    from fleet.strategy import DistributedStrategy
    from fleet.training import distributed_loader, distributed_model, distributed_optimizer, ema_weights, no_sync
    from fleet.weights import load, save

__version__ = "0.1.0"

_HOME = {
    "Checkpointer": "checkpoint",
    "Codec": "collective.strategies.codec",
    "DistributedStrategy": "strategy",
    "Strategy": "collective.strategies.hooks",
    "all_gather": "exchange",
    "all_reduce": "exchange",
    "barrier": "runtime",
    "broadcast": "exchange",
    "current": "fanout.current",
    "distributed_loader": "training",
    "distributed_model": "training",
    "distributed_optimizer": "training",
    "ema_weights": "training",
    "export": "parameter_server.export",
    "gather": "fanout.spread",
    "grid": "fanout.grid",
    "init": "runtime",
    "is_initialized": "runtime",
    "is_server": "runtime",
    "load": "weights",
    "local_rank": "runtime",
    "log": "progress",
    "log_to": "progress",
    "mean_loss": "exchange",
    "member": "fanout.member",
    "no_sync": "training",
    "profile": "profiling",
    "rank": "runtime",
    "save": "weights",
    "shutdown": "runtime",
    "spread": "fanout.spread",
    "world_size": "runtime",
}

__all__ = [
    "Checkpointer",
    "Codec",
    "DistributedStrategy",
    "Strategy",
    "all_gather",
    "all_reduce",
    "barrier",
    "broadcast",
    "current",
    "data",
    "distributed_loader",
    "distributed_model",
    "distributed_optimizer",
    "ema_weights",
    "errors",
    "export",
    "gather",
    "grid",
    "init",
    "is_initialized",
    "is_server",
    "load",
    "local_rank",
    "log",
    "log_to",
    "mean_loss",
    "member",
    "metrics",
    "no_sync",
    "parameter_server",
    "profile",
    "rank",
    "save",
    "shutdown",
    "spread",
    "tracking",
    "world_size",
]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module 'fleet' has no attribute {name!r}")
    if name in _HOME:
        value = getattr(import_module(f"fleet.{_HOME[name]}"), name)
    elif find_spec(f"fleet.{name}") is not None:
        return import_module(f"fleet.{name}")
    else:
        value = import_module("fleet.paddle_names").find(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
