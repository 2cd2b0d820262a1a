"""Switches of Paddle's DistributedStrategy under the names that they have here, or what to use in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fleet.errors import ConfigError

Place = Callable[..., str]
_HYBRID = "fleet trains data-parallel; for models that no trainer holds whole use paddle.distributed.fleet itself"
_STATIC = "it belongs to the static graph, which fleet does not use: delete the line"

INSTEAD: dict[str, str] = {
    **dict.fromkeys(["tensor_parallel", "pipeline", "expert_parallel", "sequence_parallel", "semi_auto", "auto",
                     "auto_search"], _HYBRID),
    "use_hierarchical_allreduce": "on one host gradients meet in shared memory already: delete the line",
    "qat": "quantize in the script: paddle.quantization; fleet leaves the model as it is",
    "asp": "prune in the script: paddle.incubate.asp; fleet leaves the model as it is",
    "elastic": "start with python -m fleet.launch --trainer_restarts N, and resume by fleet.Checkpointer",
    "amp": "use paddle.amp.auto_cast in the script and fleet.distributed_scaler on its GradScaler; on CPUs Paddle's mixed "
           "precision computes in float32 anyway",
    "join": "distributed_loader gives every trainer as many batches, the last ones empty where samples run out",
    "heter_ccl_mode": "trainers of one kind of device only: delete the line",
    **dict.fromkeys(["adam_d2sum", "is_fl_ps_mode", "with_coordinator", "fs_client_param", "trainer_desc_configs",
                     "sparse_table_configs", "downpour_table_param"], "set it in the parameter_server block"),
    **dict.fromkeys(["build_strategy", "execution_strategy", "without_graph_optimization", "fuse_grad_size_in_TFLOPS",
                     "fuse_grad_size_in_num", "calc_comm_same_stream", "fuse_grad_merge", "fix_op_run_order", "split_data",
                     "enable_sequential_execution", "fp16_guard"], _STATIC),
    **dict.fromkeys(["nccl_comm_num", "sync_nccl_allreduce", "cudnn_exhaustive_search", "cudnn_batchnorm_spatial_persistent",
                     "conv_workspace_size_limit"], "set it by paddle.set_flags, or in the environment"),
}  # fmt: skip
_DEGREES = {"mp_degree": "model", "pp_degree": "pipeline", "sep_degree": "sequence", "ep_degree": "expert", "cp_degree": "context"}


def refuse(name: str, value: Any, at: Place) -> bool:
    """Return whether ``name`` is one of Paddle's that fleet does not have and that asks for nothing: False or None.

    Raises:
        ConfigError: it asks for something; says what to use.
    """
    base = name.removesuffix("_configs")
    if base not in INSTEAD:
        return False
    if value is False or value is None:
        return True
    raise ConfigError(f"there is no {name} in fleet, asked for as {value!r}", at=at(name), fix=INSTEAD[base])


def translated(name: str, value: Any, settings: Callable[[str], Mapping[str, Any]], at: Place) -> tuple[str, Any] | None:
    """Return a block's name and its new value for an old spelling, or None if ``name`` is no old spelling.

    Args:
        settings: a block's name -> what is set of it so far.
    """
    if name == "fuse_all_reduce_ops":
        _expect(isinstance(value, bool), name, value, at, "True or False")
        return "buckets", settings("buckets") or None if value else {"first_mb": 0.001, "mb": 0.001}
    if name in ("fuse_grad_size_in_MB", "last_comm_group_size_MB"):
        _expect(isinstance(value, (int, float)) and not isinstance(value, bool), name, value, at, "a number of MB")
        return "buckets", {**settings("buckets"), "mb" if name[0] == "f" else "first_mb": float(value)}
    if name == "gradient_scale_configs":
        given = value if isinstance(value, dict) else {}
        _expect(given.get("scale_strategy", "avg") == "avg" and set(given) <= {"scale_strategy"}, name, value, at,
                "{'scale_strategy': 'avg'}: gradients are the mean over the global batch")  # fmt: skip
        return "batch", None
    if name == "recompute_configs":
        right = isinstance(value, dict) and set(value) <= {"checkpoints", "layers"}
        _expect(right, name, value, at, "{'checkpoints': names of layers}")
        return "recompute", {"layers": list(value.get("checkpoints") or value.get("layers") or [])}
    if name == "sharding_configs":
        _expect(isinstance(value, dict) and set(value) <= {"stage", "sharding_degree"}, name, value, at, "{'stage': 1}")
        return "sharding", {"degree" if k == "sharding_degree" else k: v for k, v in value.items()}
    if name == "hybrid_configs":
        return "sharding", _hybrid(value, settings("sharding"), at)
    return None


def _hybrid(value: Any, sharding: Mapping[str, Any], at: Place) -> Any:
    known = {"dp_degree", "sharding_degree", *_DEGREES}
    _expect(isinstance(value, dict) and set(value) <= known, "hybrid_configs", value, at, "degrees: " + ", ".join(sorted(known)))
    for degree, what in _DEGREES.items():
        if value.get(degree, 1) != 1:
            asked = f"hybrid_configs asks for {what} parallelism, {degree} {value[degree]}"
            raise ConfigError(asked, at=at("hybrid_configs", degree), fix=_HYBRID)
    shards, copies = value.get("sharding_degree", 1), value.get("dp_degree", -1)
    if shards > 1 and copies > 1:
        asked = f"hybrid_configs asks for {copies} groups of {shards} trainers; fleet shares the optimizer's state out over all"
        raise ConfigError(asked, at=at("hybrid_configs", "dp_degree"), fix="leave dp_degree away, or sharding_degree")
    return {**sharding, "degree": shards} if shards > 1 else dict(sharding) or None


def _expect(right: bool, name: str, value: Any, at: Place, expected: str) -> None:
    if not right:
        raise ConfigError(f"{name} must be {expected}, got {value!r}", at=at(name), fix="give that, or use the block of fleet")
