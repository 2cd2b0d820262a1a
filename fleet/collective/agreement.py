"""Before the first step: the trainers hold the same model, and the same values in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from fleet.errors import ConfigError
from fleet.runtime import Runtime

MESSAGE_BYTES = 64 << 20  # values travel in messages of about this size: few meetings, and little memory beside the model


def agree_model(runtime: Runtime, named_parameters: Iterable[tuple[str, Any]]) -> None:
    """Check that names, order, shapes, dtypes and frozenness of the parameters are the same on all trainers.

    Raises:
        ConfigError: on all trainers: the first parameter that differs, and what it is on which ranks.
        PeerLost, RendezvousError: a trainer did not come.

    Cost: one small meeting; a second one, with the whole list, only if the models differ.
    """
    lines = [_line(name, parameter) for name, parameter in named_parameters]
    text = "\n".join(lines).encode()
    digests = runtime.meet("fleet.distributed_model(): the same model everywhere", hashlib.sha256(text).digest())
    if len(set(digests)) == 1:
        return
    listings = [p.decode().split("\n") for p in runtime.meet("fleet.distributed_model(): where the models differ", text)]
    longest = max(len(listing) for listing in listings)
    for k in range(longest):
        here = [listing[k] if k < len(listing) else "" for listing in listings]
        if len(set(here)) > 1:
            ranks = {line: [r for r, other in enumerate(here) if other == line] for line in dict.fromkeys(here)}
            words = "; ".join(f"{line or 'no such parameter'} on trainer {_join(who)}" for line, who in ranks.items())
            raise ConfigError(
                f"the trainers hold different models: parameter {k} is {words}",
                at="fleet.distributed_model()",
                fix="build the same model on every trainer; nothing in it may depend on the rank",
            )


def broadcast_state(runtime: Runtime, model: Any) -> None:
    """Give every trainer trainer 0's values, in place: of a model's parameters and buffers, or of a list of tensors.

    Afterwards each trainer's BatchNorm follows its own batches, as in Paddle's own data parallelism; trainer 0's
    are the ones that are saved.

    Raises:
        ConfigError, PeerLost, RendezvousError: as fleet.broadcast().

    Cost: the model once, in messages of about 64 MB.
    """
    if runtime.role.world_size == 1 or (runtime.recovery is not None and runtime.recovery.rejoins):
        return  # the others gave and took theirs when its earlier life began; it takes what the servers hold
    held = model if isinstance(model, list) else [*model.parameters(), *model.buffers()]
    tensors = {id(t): t for t in held if t.size > 0}
    by_dtype: dict[str, list[Any]] = {}
    for tensor in tensors.values():
        by_dtype.setdefault(str(tensor.dtype), []).append(tensor)
    for alike in by_dtype.values():
        message: list[Any] = []
        for tensor in alike:
            message.append(tensor)
            if sum(int(t.size) * t.element_size() for t in message) >= MESSAGE_BYTES:
                _broadcast(runtime, message)
                message = []
        if message:
            _broadcast(runtime, message)


def _broadcast(runtime: Runtime, tensors: list[Any]) -> None:
    import paddle

    with paddle.no_grad():
        flat = paddle.concat([t.detach().reshape([-1]) for t in tensors])
        got = runtime.group.broadcast(flat, 0)
        start = 0
        for tensor in tensors:
            stop = start + int(tensor.size)
            tensor.set_value(got[start:stop].reshape(tensor.shape))
            start = stop


def _line(name: str, parameter: Any) -> str:
    dtype = str(parameter.dtype).rsplit(".", 1)[-1]
    return f"{name} {dtype}{list(parameter.shape)}{' frozen' if parameter.stop_gradient else ''}"


def _join(ranks: list[int]) -> str:
    return ", ".join(str(r) for r in ranks)
