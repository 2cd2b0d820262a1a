"""What an optimizer has learned about parameters, under the parameters' names in the model.

Paddle names tensors by counting layers, so its own keys differ between two scripts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fleet.collective.strategies.hooks import Trainer


def take(trainer: Trainer, names: Collection[str] | None = None) -> dict[str, Any]:
    """Return copies: ``NAME//STATE`` -> array, of the parameters called so; of all by default."""
    found = {}
    by_length = sorted(((p.name, name) for name, p in trainer.parameters), key=lambda pair: -len(pair[0]))
    for key, value in trainer.optimizer.state_dict().items():
        name = next(((paddles, name) for paddles, name in by_length if key.startswith(f"{paddles}_")), None)
        if name is not None and hasattr(value, "numpy") and (names is None or name[1] in names):
            found[f"{name[1]}//{key[len(name[0]) + 1 :]}"] = value.numpy().copy()
    return found


def put(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Give the optimizer what :func:`take` returned, over what it holds."""
    import paddle

    paddles = {name: p.name for name, p in trainer.parameters}
    held = trainer.optimizer.state_dict()
    for key, value in state.items():
        name, _, kind = key.rpartition("//")
        if name in paddles:
            held[f"{paddles[name]}_{kind}"] = paddle.to_tensor(value)
    trainer.optimizer.set_state_dict(held)
