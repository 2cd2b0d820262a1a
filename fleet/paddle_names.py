"""The names of ``paddle.distributed.fleet``: each one line on ours, or a refusal that says what to use.

``import fleet`` in place of ``import paddle.distributed.fleet as fleet`` finds them, because ``fleet`` looks here for what
it does not define itself. What is here are roles and the calls of a
dynamic-graph script.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

from fleet import env, exchange, runtime
from fleet.data.generators import MultiSlotDataGenerator, MultiSlotStringDataGenerator
from fleet.errors import ConfigError


class PaddleCloudRoleMaker:
    """Stand for Paddle's role maker: the roles come from the environment, only ``is_collective`` is read."""

    def __init__(self, is_collective: bool = False, **_: Any) -> None:
        self.is_collective = is_collective


class Role(IntEnum):
    """What a process does, in Paddle's numbers."""

    WORKER = 1
    SERVER = 2


class UserDefinedRoleMaker:
    """State this process's role by hand, for scripts that no launcher starts.

    Args:
        is_collective: True implies ``batch="per_trainer"``, as in Paddle.
        current_id: rank of a worker, index of a server.
        role: ``Role.WORKER`` or ``Role.SERVER``.
        worker_num: number of trainers; or give ``worker_endpoints``, ``HOST:PORT`` of each, the first of which they meet at.
        server_endpoints: ``HOST:PORT`` of each server.

    Raises:
        ConfigError: numbers that do not fit together, or an argument that fleet does not know.
    """

    def __init__(
        self,
        is_collective: bool = False,
        init_gloo: bool = False,
        *,
        current_id: int = 0,
        role: Role = Role.WORKER,
        worker_num: int | None = None,
        worker_endpoints: Sequence[str] = (),
        server_endpoints: Sequence[str] = (),
        **others: Any,
    ) -> None:
        at = "fleet.UserDefinedRoleMaker()"
        if others:
            fix = "give is_collective, current_id, role, worker_num, worker_endpoints and server_endpoints only"
            raise ConfigError(f"no such argument: {', '.join(others)}", at=at, fix=fix)
        num_workers = worker_num if worker_num is not None else len(worker_endpoints) or 1
        if worker_endpoints and len(worker_endpoints) != num_workers:
            what = f"worker_num is {num_workers}, and there are {len(worker_endpoints)} worker_endpoints"
            raise ConfigError(what, at=at, fix="leave worker_num away, or give one endpoint a worker")
        if num_workers > 1 and not worker_endpoints:
            raise ConfigError(f"{num_workers} workers need a place to meet", at=at, fix="give worker_endpoints=['HOST:PORT', ...]")
        num = len(server_endpoints) if role == Role.SERVER else num_workers
        if not 0 <= current_id < num:
            raise ConfigError(f"current_id {current_id} is not below {num}", at=at, fix=f"give 0 to {num - 1}")
        self.is_collective = is_collective
        self._current_id, self._is_server, self._num_workers = current_id, role == Role.SERVER, num_workers
        self._workers, self._servers = list(worker_endpoints), list(server_endpoints)

    def environ(self) -> dict[str, str]:
        """Return the role as the variables that a launcher would have set; ``fleet.init`` sets them."""
        said = {
            "TRAINING_ROLE": "PSERVER" if self._is_server else "TRAINER",
            "PADDLE_TRAINERS_NUM": str(self._num_workers),
            "PADDLE_TRAINER_ENDPOINTS": ",".join(self._workers),
            "PADDLE_MASTER": self._workers[0] if self._num_workers > 1 else "",
            "PADDLE_PSERVERS_IP_PORT_LIST": ",".join(self._servers),
        }
        if self._is_server:
            said["POD_IP"], _, said["PADDLE_PORT"] = self._servers[self._current_id].rpartition(":")
        else:
            said["PADDLE_TRAINER_ID"] = str(self._current_id)
        return {name: value for name, value in said.items() if value}


class Utilities:
    """``fleet.util``: small things between trainers, by Paddle's names."""

    def all_reduce(self, input: Any, mode: str = "sum", comm_world: str = "worker") -> Any:
        """Return the sum, max or min over all trainers, element by element, as a NumPy array."""
        import numpy as np

        self._only_workers(comm_world, "all_reduce")
        return exchange.all_reduce(np.asarray(input), mode)

    def all_gather(self, input: Any, comm_world: str = "worker") -> list[Any]:
        """Return every trainer's value in rank order."""
        self._only_workers(comm_world, "all_gather")
        return exchange.all_gather(input)

    def barrier(self, comm_world: str = "worker") -> None:
        """Wait until every trainer is here."""
        self._only_workers(comm_world, "barrier")
        runtime.barrier()

    def get_file_shard(self, files: list[str]) -> list[str]:
        """Return this trainer's part of a list: consecutive files, the first trainers one more where they do not divide."""
        if not isinstance(files, list):
            fix = "give a list of file names"
            raise ConfigError(f"files must be a list, got {type(files).__name__}", at="fleet.util.get_file_shard()", fix=fix)
        role = _role()
        size, left = divmod(len(files), role.world_size)
        start = role.rank * size + min(role.rank, left)
        return files[start : start + size + (role.rank < left)]

    def print_on_rank(self, message: str, rank_id: int) -> None:
        """Print on one trainer."""
        if _role().rank == rank_id:
            print(message, flush=True)

    @staticmethod
    def _only_workers(comm_world: str, call: str) -> None:
        if comm_world != "worker":
            fix = 'leave it "worker": servers of fleet take part in no collective'
            raise ConfigError(f"comm_world is {comm_world!r}", at=f"fleet.util.{call}()", fix=fix)


def distributed_scaler(scaler: Any) -> Any:
    """Return the same ``paddle.amp.GradScaler``.

    Paddle's has to agree on whether a gradient overflowed, because trainers look at their own there. Here ``param.grad`` is
    the reduced one when ``backward()`` returns: what one trainer finds in it, all find.
    """
    if not (hasattr(scaler, "unscale_") and hasattr(scaler, "scale")):
        fix = "give a paddle.amp.GradScaler"
        raise ConfigError(f"not a GradScaler: {type(scaler).__name__}", at="fleet.distributed_scaler()", fix=fix)
    return scaler


class _OldUtilities:
    """``fleet.utils`` of old scripts: ``recompute``; every other name of it refuses."""

    @staticmethod
    def recompute(function: Any, *args: Any, **kwargs: Any) -> Any:
        """Run ``function(*args)`` and forget its activations; backward runs it again. Paddle's own, under our reducer."""
        from paddle.distributed.fleet.utils import recompute as paddles

        return paddles(function, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        fix = "use fsspec or the standard library for files"
        raise ConfigError(f"fleet.utils.{name} is not in this version of fleet", at=f"fleet.utils.{name}", fix=fix)


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
    "Role": Role,
    "UserDefinedRoleMaker": UserDefinedRoleMaker,
    "UtilBase": Utilities,
    "barrier_worker": runtime.barrier,
    "distributed_scaler": distributed_scaler,
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
    "util": Utilities(),
    "utils": _OldUtilities(),
    "worker_endpoints": lambda to_string=False: _listed(env.get("PADDLE_TRAINER_ENDPOINTS").split(","), to_string),
    "worker_index": runtime.rank,
    "worker_num": runtime.world_size,
}

_STATIC = "it belongs to the static graph; write the model in dynamic graph and use fleet.distributed_model and _optimizer"
_HYBRID = "model parallelism is not what fleet does; use paddle.distributed.fleet for it"
_DATA = "use fleet.data (FileLoader with MultiSlot, ArrayLoader) or a paddle.io.Dataset with fleet.distributed_loader"
_SAVE = "use fleet.save(model, path), fleet.load, or fleet.Checkpointer"
_INTERNAL = "it is internal to Paddle; nothing of fleet needs it"

_INSTEAD: dict[str, str] = {
    **dict.fromkeys(["minimize", "Fleet", "fleet"], _STATIC),
    **dict.fromkeys(["get_fl_client", "init_coordinator", "is_coordinator", "make_fl_strategy"], "federated learning is not here"),
    **dict.fromkeys(["CommunicateTopology", "HybridCommunicateGroup", "get_hybrid_communicate_group", "meta_parallel",
                     "get_hybrid_parallel_topology", "layers", "auto", "elastic"], _HYBRID),
    **dict.fromkeys(["InMemoryDataset", "QueueDataset", "DatasetBase",
                     "BoxPSDataset", "FileInstantDataset", "data_generator", "dataset"], _DATA),
    **dict.fromkeys(["save_persistables", "save_inference_model", "save_dense_params", "save_one_table", "save_cache_model",
                     "save_cache_table", "load_model", "load_one_table", "load_inference_model"], _SAVE),
    **dict.fromkeys(["recompute"], "use fleet.utils.recompute"),
    **dict.fromkeys(["scaler", "amp_init", "get_loss_scaling"], "use paddle.amp.GradScaler, and fleet.distributed_scaler on it"),
    "qat_init": "quantisation is not what fleet does; use paddle.quantization on the model before fleet.distributed_model",
    **dict.fromkeys(["check_memory_usage", "check_save_pre_patch_done", "cloud_utils", "collective_perf", "base", "launch_utils",
                     "get_log_level_code", "get_log_level_name", "set_log_level", "log_util", "meta_optimizers", "model",
                     "optimizer", "proto", "print_table_stat", "set_date", "local_device_ids", "world_device_ids",
                     "allgather_perf", "allreduce_perf", "broadcast_perf", "reduce_perf", "reduce_scatter_perf",
                     "strategy_compiler", "user_defined_optimizer"], _INTERNAL),
}  # fmt: skip


def find(name: str) -> Any:
    """Return our form of a name of paddle.distributed.fleet.

    Raises:
        ConfigError: a name of Paddle's that fleet does not have; says what to use.
        AttributeError: a name that neither has.
    """
    if name in _OURS:
        return _OURS[name]
    if name in _INSTEAD:
        raise ConfigError(f"fleet.{name} is not in fleet", at=f"fleet.{name}", fix=_INSTEAD[name])
    raise AttributeError(f"module 'fleet' has no attribute {name!r}")


def _listed(endpoints: list[str], to_string: bool) -> list[str] | str:
    return ",".join(endpoints) if to_string else endpoints


def names() -> dict[str, Callable[..., Any] | str]:
    """Return every name of Paddle's that this file speaks for: ours, or the refusal."""
    return {**_OURS, **_INSTEAD}
