"""``localsgd``: each trainer steps by itself, and the parameters are averaged now and then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fleet.collective.strategies import optimizer_state
from fleet.collective.strategies.hooks import State, Strategy, Trainer
from fleet.config import Field

_WITH_TABLES = 'rows on servers are shared at every step; the parameter server\'s own form is consistency "geo"'


class LocalSgd(Strategy):
    """Take steps on each trainer's own gradients; every ``k_steps`` the parameters become the mean over the trainers.

    Up to and with step ``begin_step`` gradients meet as ever. The parameters also become the mean at the end of an epoch that
    a loader of ``distributed_loader`` ends, so that what is saved or evaluated there is the same on all trainers. The optimizer's
    state (momentum) stays each trainer's own. A trainer whose part of a batch is empty takes its step on a gradient of zeros.

    Bytes a step: 4 / ``k_steps`` a float. Use it where sending is slow and the loss bears it; k_steps 4 to 16.
    State: parameters and optimizer state of each trainer between two averages; on another number of trainers all begin with
    the mean of both.

    Source: Stich, "Local SGD Converges Fast and Communicates Little", ICLR 2019; Paddle's ``LocalSGDOptimizer``.
    """

    name = "localsgd"
    fields = (
        Field("k_steps", int, 1, "steps between two averages", low=1),
        Field("begin_step", int, 1, "the last step whose gradients meet", low=1),
    )
    conflicts = {"parameter_server": _WITH_TABLES}
    per_trainer = True

    k_steps: int
    begin_step: int

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._apart = 0  # steps since the parameters were the same everywhere

    def meets(self, trainer: Trainer) -> str:
        """Keep gradients to oneself from step ``begin_step + 1`` on."""
        return "never" if trainer.step >= self.begin_step else "now"

    def after_step(self, trainer: Trainer) -> None:
        """Average when it is time."""
        if trainer.step <= self.begin_step:
            return
        self._apart += 1
        if self._apart >= self.k_steps or trainer.ends_epoch:
            average(trainer)
            self._apart = 0

    def state(self, trainer: Trainer) -> State:
        """Return what is this trainer's own: everything between two averages, the optimizer's state always."""
        parameters = {f"parameter/{n}": p.numpy() for n, p in trainer.parameters} if self._apart else {}
        own = {f"optimizer/{key}": value for key, value in optimizer_state.take(trainer).items()}
        return {"apart": self._apart, **parameters, **own}

    def load(self, states: Sequence[State], trainer: Trainer) -> None:
        """Go on where each trainer was; on another number of trainers, where they were on average."""
        same = len(states) == trainer.world_size
        mine = states[trainer.rank] if same else _mean(states)
        self._apart = int(mine["apart"]) if same else 0
        for name, parameter in trainer.parameters:
            if f"parameter/{name}" in mine:
                parameter.set_value(mine[f"parameter/{name}"])
        prefix = "optimizer/"
        optimizer_state.put(trainer, {k[len(prefix) :]: v for k, v in mine.items() if k.startswith(prefix)})


def average(trainer: Trainer) -> None:
    """Give every trainable parameter the mean over the trainers, the same bits on each. Cost: the parameters once."""
    import numpy as np

    if trainer.world_size == 1:
        return
    tensors = [p for _, p in trainer.parameters if not p.stop_gradient]
    flat = np.concatenate([p.numpy().reshape(-1) for p in tensors])
    mean = trainer.wire.sum(flat) / np.asarray(trainer.world_size, flat.dtype)
    start = 0
    for tensor in tensors:
        stop = start + int(tensor.size)
        tensor.set_value(mean[start:stop].reshape(tensor.shape).astype(tensor.numpy().dtype))
        start = stop


def _mean(states: Sequence[State]) -> dict[str, Any]:
    import numpy as np

    held = [states[r] for r in range(len(states))]
    return {k: np.mean([s[k] for s in held], axis=0).astype(v.dtype) for k, v in held[0].items() if isinstance(v, np.ndarray)}
