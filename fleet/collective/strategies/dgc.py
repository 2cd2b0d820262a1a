"""``dgc``: only the largest values of each gradient travel; the others wait until they are large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fleet.collective.strategies.codec import Codec, Part, own_or_shared
from fleet.collective.strategies.hooks import State, Trainer
from fleet.collective.strategies.lars import check_script
from fleet.config import Field
from fleet.errors import ConfigError

_MOMENTUM = "dgc keeps the momentum of the script's Momentum itself, with what waits"


class Dgc(Codec):
    """Deep gradient compression: each trainer sends the ids and values of a parameter's largest accumulated gradients.

    Momentum is taken on each trainer before what waits is added up (momentum correction), and both are cleared where a value
    was sent (factor masking); so the script's ``Momentum`` becomes an SGD, with its momentum here. Up to and with step
    ``rampup_begin_step`` everything is sent; then the entries of ``sparsity`` follow each other over ``rampup_step`` steps, and
    the last one stays. ``local_clip``: each trainer's own gradient of a parameter is clipped to this norm / sqrt(trainers) first.
    Parameters of fewer than ``min_size`` values are sent whole. With one trainer nothing is sent, and Momentum stays.

    Bytes a step: 8 x (1 - sparsity) a float. Use it on slow links with sparsity 0.99 and above.
    State: momentum and what waits; on another number of trainers both are added up and shared equally.

    Source: Lin et al., "Deep Gradient Compression", ICLR 2018; Paddle's ``DGCMomentumOptimizer``.
    """

    name = "dgc"
    fields = (
        Field("rampup_begin_step", int, 0, "steps in which everything is sent", low=0),
        Field("rampup_step", int, 1, "steps over which sparsity goes through its entries", low=1),
        Field("sparsity", list, (0.999,), "parts that wait, one entry after another", low=0.0, below=1.0, items=float),
        Field("local_clip", float, None, "norm of each trainer's own gradient of a parameter", low=1e-12, none_ok=True),
        Field("min_size", int, 16384, "values from which a parameter is sent in part", low=1),
    )
    conflicts = {
        "lars": _MOMENTUM,
        "lamb": "dgc needs the script's Momentum, and lamb takes the place of Adam",
        "localsgd": _MOMENTUM + ", and local steps send no gradients",
    }

    rampup_begin_step: int
    rampup_step: int
    sparsity: tuple[float, ...]
    local_clip: float | None
    min_size: int

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._momentum, self._world_size = 0.0, 1
        self._sent: dict[str, int] = {}  # parameter -> steps
        self._speed: dict[str, Any] = {}  # parameter -> float32[n], momentum of this trainer's gradients

    @classmethod
    def complete(cls, values: dict[str, Any], at: Callable[..., str]) -> dict[str, Any]:
        """Refuse a ramp without an entry."""
        if not values["sparsity"]:
            raise ConfigError("dgc.sparsity is empty", at=at("sparsity"), fix="give at least one entry, for example [0.999]")
        return values

    def wrap_optimizer(self, optimizer: Any, trainer: Trainer) -> Any:
        """Return an SGD; the momentum moves here."""
        import paddle

        check_script(self.name, optimizer, paddle.optimizer.Momentum)
        if optimizer._use_nesterov:
            raise ConfigError("dgc has no Nesterov momentum", at="strategy.dgc", fix="leave use_nesterov away")
        self._world_size = trainer.world_size
        if trainer.world_size == 1:
            return optimizer
        self._momentum = float(optimizer._momentum)
        how = {"parameters": optimizer._parameter_list, "grad_clip": optimizer._grad_clip}
        return paddle.optimizer.SGD(optimizer._learning_rate, **how)

    def encode(self, part: Part) -> bytes:
        """Return the number of values sent, their ids and themselves."""
        import numpy as np

        name, gradient = part.name, part.values
        step = self._sent[name] = self._sent.get(name, 0) + 1
        if self.local_clip is not None:
            norm, most = float(np.linalg.norm(gradient)), self.local_clip / self._world_size**0.5
            gradient = gradient * np.float32(most / norm) if norm > most else gradient
        speed = self._speed[name] = np.float32(self._momentum) * self._speed.get(name, np.float32(0)) + gradient
        num_sent = self._num_sent(step, gradient.size)
        if step <= self.rampup_begin_step or gradient.size < self.min_size:
            payload: bytes = np.array([-1], "<i8").tobytes() + speed.tobytes()
            return payload
        waiting = self.lost.get(name, np.float32(0)) + speed
        ids = np.argpartition(np.abs(waiting), waiting.size - num_sent)[waiting.size - num_sent :].astype("<u4")
        ids.sort()
        payload = np.array([num_sent], "<i8").tobytes() + ids.tobytes() + waiting[ids].tobytes()
        waiting[ids] = speed[ids] = 0
        self.lost[name] = waiting
        return payload

    def decode(self, payload: bytes, part: Part) -> Any:
        """Return the values at their ids, zeros elsewhere."""
        import numpy as np

        num_sent = int(np.frombuffer(payload, "<i8", 1)[0])
        if num_sent < 0:
            return np.frombuffer(payload, np.float32, offset=8)
        values = np.zeros(part.values.size, np.float32)
        values[np.frombuffer(payload, "<u4", num_sent, 8)] = np.frombuffer(payload, np.float32, num_sent, 8 + 4 * num_sent)
        return values

    def state(self, trainer: Trainer) -> State:
        """Return momentum, what waits, and how far the ramp is."""
        speed = {f"speed/{name}": value.copy() for name, value in self._speed.items()}
        return {**super().state(trainer), **speed, **{f"sent/{name}": count for name, count in self._sent.items()}}

    def load(self, states: Sequence[State], trainer: Trainer) -> None:
        """Take them up."""
        super().load(states, trainer)
        self._speed = own_or_shared(states, trainer, "speed/")
        self._sent = {key[5:]: int(value) for key, value in states[0].items() if key.startswith("sent/")}

    def _num_sent(self, step: int, size: int) -> int:
        at = (step - self.rampup_begin_step - 1) * len(self.sparsity) // self.rampup_step
        return max(1, round(size * (1 - self.sparsity[max(0, min(at, len(self.sparsity) - 1))])))
