"""Values of all trainers put together: numbers and arrays on the control channel, Paddle tensors through Gloo or NCCL."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from fleet.errors import ConfigError
from fleet.runtime import OPERATIONS, Runtime, current

Value = TypeVar("Value")
_COUNT = struct.Struct("<d")


def all_reduce(value: Value, op: str = "sum") -> Value:
    """Combine a number, NumPy array or Paddle tensor of all trainers; every trainer gets the same result.

    Numbers and arrays travel on the control channel and are added in rank order; tensors go through Gloo or NCCL.

    Args:
        value: same shape and dtype on every trainer.
        op: sum, mean, max or min.

    Raises:
        ConfigError: another op, or shapes or dtypes that differ.
        PeerLost, RendezvousError: as :func:`fleet.barrier`.
    """
    runtime = current("fleet.all_reduce()")
    if op not in OPERATIONS:
        raise ConfigError(f"op must be one of {', '.join(OPERATIONS)}, got {op!r}", at="fleet.all_reduce()", fix="use one of them")
    if _is_tensor(value):
        return runtime.group.all_reduce(value, op)  # type: ignore[no-any-return]
    import numpy as np

    stacked = np.stack(_gather_arrays(runtime, value, "fleet.all_reduce()"))
    combine: dict[str, Callable[..., Any]] = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min}
    total = np.asarray(combine[op](stacked, axis=0))
    if op != "mean":
        total = total.astype(stacked.dtype)
    if isinstance(value, np.ndarray):
        return total  # type: ignore[return-value]
    return float(total) if op == "mean" else _as_given(total, value)  # type: ignore[return-value]


def all_gather(value: Value) -> list[Value]:
    """Return the values of all trainers in rank order: numbers, NumPy arrays or Paddle tensors of equal shape and dtype.

    Raises:
        ConfigError: shapes or dtypes differ.
        PeerLost, RendezvousError: as :func:`fleet.barrier`.
    """
    runtime = current("fleet.all_gather()")
    if _is_tensor(value):
        return runtime.group.all_gather(value)  # type: ignore[no-any-return]
    import numpy as np

    arrays = _gather_arrays(runtime, value, "fleet.all_gather()")
    return [a if isinstance(value, np.ndarray) else _as_given(a, value) for a in arrays]


def broadcast(value: Value, source: int = 0) -> Value:
    """Return trainer ``source``'s value on every trainer; the others give a value of the same shape and dtype.

    Raises:
        ConfigError: ``source`` is no rank, or shapes or dtypes differ.
        PeerLost, RendezvousError: as :func:`fleet.barrier`.
    """
    runtime = current("fleet.broadcast()")
    if not 0 <= source < runtime.role.world_size:
        fix = f"give a rank below {runtime.role.world_size}"
        raise ConfigError(f"there is no trainer {source}", at="fleet.broadcast()", fix=fix)
    if _is_tensor(value):
        return runtime.group.broadcast(value, source)  # type: ignore[no-any-return]
    return all_gather(value)[source]


def _as_given(array: Any, like: Value) -> Value:
    return type(like)(array.item())  # type: ignore[call-arg]


def _is_tensor(value: object) -> bool:
    paddle = sys.modules.get("paddle")
    return paddle is not None and isinstance(value, paddle.Tensor)


def mean_loss(total: Any, count: float) -> Any:
    """Return the loss of a batch whose mean is not over samples: over tokens, pixels, or samples with weights.

    Each trainer gives the sum of its part's losses; where the parts' counts are in another ratio than their samples, the mean of
    each part's own mean is not the batch's. ``backward()`` of what is returned gives, on any number of trainers, the gradient of
    (all trainers' sums) / (all their counts); ``fleet.log`` shows that quotient. With ``gradient_merge`` it is that of each
    micro-step. Where a step's gradients stay a trainer's own (``localsgd``) it is this trainer's total / count, as it is alone.

    Args:
        total: paddle.Tensor of one value, with its gradient: the sum of this part's losses; 0 x the outputs for nothing at all.
        count: what it is to be divided by: tokens, or the sum of weights; 0 if this part has none. If nobody has any, the loss
            and its gradients are 0. A part without samples (the loader then gives a borrowed one) counts 0 by itself.

    Raises:
        ConfigError: a count that is negative or not finite, of any trainer; tables of consistency geo. Every trainer raises.
        PeerLost, RendezvousError: as :func:`fleet.barrier`.

    Cost: a meeting on the control channel, 8 bytes a trainer; call it once a batch on every trainer.
    """
    runtime, at = current("fleet.mean_loss()"), "fleet.mean_loss()"
    if not _is_tensor(total) or total.size != 1:
        what = f"{list(total.shape)} values" if _is_tensor(total) else f"a {type(total).__name__}"
        raise ConfigError(f"mean_loss takes a tensor of one value, got {what}", at=at, fix="sum the losses: losses.sum()")
    strategy, share = runtime.strategy, runtime.share
    if strategy is not None and (strategy.parameter_server or {}).get("consistency") == "geo":
        what = "with geo tables rows learn from each trainer's own mean, dense parameters from all: no one loss fits both"
        raise ConfigError(what, at=at, fix="divide by this trainer's own count, or take another consistency")
    alone = runtime.role.world_size == 1 or runtime.meets() == "never"
    weight = 1.0 if alone else 1 / runtime.role.world_size if share is None else share.num_samples / max(share.num_global, 1)
    payload = _COUNT.pack(float(count) if weight > 0 else 0.0)  # an empty part is computed on a borrowed sample
    counts = [_COUNT.unpack(part)[0] for part in ([payload] if alone else runtime.meet(at, payload))]
    for rank, counted in enumerate(counts):
        if not 0 <= counted < float("inf"):
            what = f"the count is {counted:g}" if alone else f"trainer {rank} gives the count {counted:g}"
            raise ConfigError(what, at=at, fix="give a number from 0 on")
    # The reducer multiplies this trainer's gradient by its weight.
    whole = sum(counts) * weight
    return total * (1 / whole if whole > 0 else 0.0)


def _gather_arrays(runtime: Runtime, value: object, call: str) -> list[Any]:
    import numpy as np

    if not isinstance(value, (bool, int, float, np.ndarray, np.generic)):
        raise ConfigError(f"cannot send a {type(value).__name__}", at=call, fix="give a number, a NumPy array or a Paddle tensor")
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    if array.dtype.hasobject:
        raise ConfigError("cannot send an array of Python objects", at=call, fix="give an array of numbers")
    head = f"{array.dtype.str}{array.shape}".encode()
    parts = [p.split(b"\n", 1) for p in runtime.meet(call, head + b"\n" + array.tobytes())]
    for other, (theirs, _) in enumerate(parts):
        if theirs != head:
            raise ConfigError(
                f"trainer {other} gave {theirs.decode()}, trainer {runtime.role.rank} gave {head.decode()}",
                at=call,
                fix="give the same shape and dtype on every trainer",
            )
    return [np.frombuffer(body, dtype=array.dtype).reshape(array.shape).copy() for _, body in parts]
