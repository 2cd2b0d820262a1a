"""Values of all trainers put together: numbers and arrays on the control channel, Paddle tensors through Gloo or NCCL."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from fleet.errors import ConfigError
from fleet.runtime import OPERATIONS, Runtime, current

Value = TypeVar("Value")


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
