"""Strategies as scripts for paddle.distributed.fleet write them: the same block, or an error that says what to use."""

from __future__ import annotations

from typing import Any

import pytest

from fleet import DistributedStrategy
from fleet.errors import ConfigError

FORMS: list[tuple[list[tuple[str, Any]], dict[str, Any]]] = [
    ([("gradient_merge", True), ("gradient_merge_configs", {"k_steps": 4, "avg": False})],
     {"gradient_merge": {"k_steps": 4, "avg": False}}),
    ([("gradient_merge_configs", {"k_steps": 4}), ("gradient_merge", True)], {"gradient_merge": {"k_steps": 4, "avg": True}}),
    ([("gradient_merge_configs", {"k_steps": 4}), ("gradient_merge", False)], {"gradient_merge": None}),
    ([("localsgd", True), ("localsgd_configs", {"k_steps": 2, "begin_step": 30})], {"localsgd": {"k_steps": 2, "begin_step": 30}}),
    ([("dgc", True), ("dgc_configs", {"rampup_begin_step": 5, "sparsity": [0.9, 0.99]})],
     {"dgc": {"rampup_begin_step": 5, "rampup_step": 1, "sparsity": (0.9, 0.99), "local_clip": None, "min_size": 16384}}),
    ([("lamb", True), ("lamb_configs", {"lamb_weight_decay": 0.1, "exclude_from_weight_decay": []})],
     {"lamb": {"lamb_weight_decay": 0.1, "exclude_from_weight_decay": ()}}),
    ([("fp16_allreduce", True), ("find_unused_parameters", True)], {"fp16_allreduce": {}, "find_unused_parameters": {}}),
    ([("recompute", True), ("recompute_configs", {"checkpoints": ["block1"]})], {"recompute": {"layers": ("block1",)}}),
    ([("sharding", True), ("sharding_configs", {"sharding_degree": 8, "stage": 1})], {"sharding": {"stage": 1, "degree": 8}}),
    ([("hybrid_configs", {"dp_degree": 2, "mp_degree": 1, "pp_degree": 1})], {"sharding": None}),
    ([("hybrid_configs", {"sharding_degree": 2})], {"sharding": {"stage": 1, "degree": 2}}),
    ([("fuse_grad_size_in_MB", 32), ("last_comm_group_size_MB", 1)], {"buckets": {"first_mb": 1.0, "mb": 32.0}}),
    ([("fuse_all_reduce_ops", True)], {"buckets": None}),
    ([("fuse_all_reduce_ops", False)], {"buckets": {"first_mb": 0.001, "mb": 0.001}}),
    ([("gradient_scale_configs", {"scale_strategy": "avg"}), ("pipeline", False), ("auto", False)], {"batch": "global"}),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "expected"), FORMS)
def test_the_same_block(lines: list[tuple[str, Any]], expected: dict[str, Any]) -> None:
    strategy = DistributedStrategy()
    for name, value in lines:
        setattr(strategy, name, value)
    effective = strategy.effective()
    assert {name: effective[name] for name in expected} == expected


REFUSED: list[tuple[str, Any, str]] = [
    ("tensor_parallel", True, "paddle.distributed.fleet itself"),
    ("pipeline_configs", {"accumulate_steps": 2}, "paddle.distributed.fleet itself"),
    ("hybrid_configs", {"mp_degree": 2}, "paddle.distributed.fleet itself"),
    ("hybrid_configs", {"dp_degree": 2, "sharding_degree": 2}, "leave dp_degree away"),
    ("hybrid_configs", {"tp_degree": 2}, "use the block"),
    ("use_hierarchical_allreduce", True, "shared memory"),
    ("qat", True, "paddle.quantization"),
    ("asp", True, "paddle.incubate.asp"),
    ("auto", True, "paddle.distributed.fleet itself"),
    ("elastic", True, "--trainer_restarts"),
    ("amp", True, "fleet.distributed_scaler"),
    ("sharding_configs", {"stage": 2}, "delete it"),
    ("gradient_scale_configs", {"scale_strategy": "sum"}, "use the block"),
    ("nccl_comm_num", 2, "paddle.set_flags"),
    ("build_strategy", object(), "static graph"),
    ("fuse_grad_size_in_MB", "32", "use the block"),
    ("gradient_merge", {"k_steps": 0}, "use a value in range"),
    ("dgc", {"sparsity": [1.0]}, "use a value in range"),
    ("dgc", {"sparsity": []}, "at least one"),
]


@pytest.mark.parametrize(("name", "value", "fix"), REFUSED)
def test_refused_with_what_to_use(name: str, value: Any, fix: str) -> None:
    strategy = DistributedStrategy()
    with pytest.raises(ConfigError) as caught:
        setattr(strategy, name, value)
    assert fix in caught.value.fix and caught.value.at.startswith("DistributedStrategy.")
