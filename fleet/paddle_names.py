"""The names of ``paddle.distributed.fleet``: each one line on ours, or a refusal that says what to use.

``import fleet`` in place of ``import paddle.distributed.fleet as fleet`` finds them, because ``fleet`` looks here for what
it does not define itself. First part: roles and the calls of a dynamic-graph script.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fleet import env, runtime
from fleet.data.generators import MultiSlotDataGenerator, MultiSlotStringDataGenerator
from fleet.errors import ConfigError


class PaddleCloudRoleMaker:
    """Stand for Paddle's role maker: the roles come from the environment, only ``is_collective`` is read."""

    def __init__(self, is_collective: bool = False, **_: Any) -> None:
        self.is_collective = is_collective


def _role() -> env.Role:
    return runtime.current("fleet").role


def init_server(dirname: str | None = None, **_: Any) -> None:
    """Do nothing: a table is made by the first trainer that names it."""
    if dirname is not None:
        fix = "let the trainers load: fleet.Checkpointer or fleet.load"
        raise ConfigError("servers do not load models themselves", at="fleet.init_server()", fix=fix)


def run_server() -> None:
    """Serve tables until every trainer has ended; for scripts that start their own servers."""
    from fleet.parameter_server import server

    server.run(_role())


def shrink(threshold: float | None = None) -> int:
    """Evict at once the rows that have expired, and with ``threshold`` those with a lower score; return how many went.

    One trainer calls it. Scores decay by themselves, step by step: there is no need to call it every day.
    """
    tables = runtime.current("fleet.shrink()").tables
    if tables is None:
        fix = "call distributed_model and distributed_optimizer with a parameter_server block first"
        raise ConfigError("there are no tables yet", at="fleet.shrink()", fix=fix)
    evicted: int = tables.shrink(threshold)
    return evicted


_OURS: dict[str, Any] = {
    "MultiSlotDataGenerator": MultiSlotDataGenerator,
    "MultiSlotStringDataGenerator": MultiSlotStringDataGenerator,
    "PaddleCloudRoleMaker": PaddleCloudRoleMaker,
    "barrier_worker": runtime.barrier,
    "init_server": init_server,
    "init_worker": lambda: None,  # the trainer meets its servers in distributed_optimizer
    "is_first_worker": lambda: _role().rank == 0,
    "is_worker": lambda: not _role().is_server,
    "node_num": lambda: 1,
    "nranks": runtime.world_size,
    "rank_in_node": runtime.local_rank,
    "run_server": run_server,
    "server_endpoints": lambda to_string=False: _listed(list(_role().servers), to_string),
    "server_index": lambda: _role().server_index,
    "server_num": lambda: len(_role().servers),
    "shrink": shrink,
    "stop_worker": runtime.shutdown,
    "worker_endpoints": lambda to_string=False: _listed(env.get("PADDLE_TRAINER_ENDPOINTS").split(","), to_string),
    "worker_index": runtime.rank,
    "worker_num": runtime.world_size,
}

_STATIC = "it belongs to the static graph; write the model in dynamic graph and use fleet.distributed_model and _optimizer"
_HYBRID = "model parallelism is not what fleet does; use paddle.distributed.fleet for it"
_DATA = "use fleet.data (FileLoader with MultiSlot, ArrayLoader) or a paddle.io.Dataset with fleet.distributed_loader"
_SAVE = "use fleet.save(model, path), fleet.load, or fleet.Checkpointer"
_LATER = "it comes in a later version of fleet"
_INTERNAL = "it is internal to Paddle; nothing of fleet needs it"

_INSTEAD: dict[str, str] = {
    **dict.fromkeys(["minimize", "UtilBase", "util", "UserDefinedRoleMaker", "Role", "Fleet", "fleet"], _STATIC),
    **dict.fromkeys(["get_fl_client", "init_coordinator", "is_coordinator", "make_fl_strategy"], "federated learning is not here"),
    **dict.fromkeys(["CommunicateTopology", "HybridCommunicateGroup", "get_hybrid_communicate_group", "meta_parallel",
                     "get_hybrid_parallel_topology", "layers", "auto", "elastic"], _HYBRID),
    **dict.fromkeys(["InMemoryDataset", "QueueDataset", "DatasetBase",
                     "BoxPSDataset", "FileInstantDataset", "data_generator", "dataset"], _DATA),
    **dict.fromkeys(["save_persistables", "save_inference_model", "save_dense_params", "save_one_table", "save_cache_model",
                     "save_cache_table", "load_model", "load_one_table", "load_inference_model"], _SAVE),
    **dict.fromkeys(["distributed_scaler", "scaler", "recompute", "amp_init", "qat_init", "get_loss_scaling"], _LATER),
    **dict.fromkeys(["check_memory_usage", "check_save_pre_patch_done", "cloud_utils", "collective_perf", "base", "launch_utils",
                     "get_log_level_code", "get_log_level_name", "set_log_level", "log_util", "meta_optimizers", "model",
                     "optimizer", "proto", "print_table_stat", "set_date", "local_device_ids", "world_device_ids",
                     "allgather_perf", "allreduce_perf", "broadcast_perf", "reduce_perf", "reduce_scatter_perf",
                     "strategy_compiler", "user_defined_optimizer"], _INTERNAL),
}  # fmt: skip


class _RefusedByName:
    """``fleet.utils`` of old scripts: every name of it refuses."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        fix = _LATER if name == "recompute" else "use fsspec or the standard library for files"
        raise ConfigError(f"fleet.utils.{name} is not in this version of fleet", at=f"fleet.utils.{name}", fix=fix)


def find(name: str) -> Any:
    """Return our form of a name of paddle.distributed.fleet.

    Raises:
        ConfigError: a name of Paddle's that fleet does not have; says what to use.
        AttributeError: a name that neither has.
    """
    if name in _OURS:
        return _OURS[name]
    if name == "utils":
        return _RefusedByName()
    if name in _INSTEAD:
        raise ConfigError(f"fleet.{name} is not in fleet", at=f"fleet.{name}", fix=_INSTEAD[name])
    raise AttributeError(f"module 'fleet' has no attribute {name!r}")


def _listed(endpoints: list[str], to_string: bool) -> list[str] | str:
    return ",".join(endpoints) if to_string else endpoints


def names() -> dict[str, Callable[..., Any] | str]:
    """Return every name of Paddle's that this file speaks for: ours, or the refusal."""
    return {**_OURS, "utils": "refused by name", **_INSTEAD}
