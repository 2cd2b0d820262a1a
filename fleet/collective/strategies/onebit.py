"""``onebit``: 1-bit Adam, signs of the momentum travel once Adam's variance has settled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fleet.collective.strategies.codec import Codec, Part
from fleet.collective.strategies.hooks import State, Trainer, Wire
from fleet.collective.strategies.lars import check_script
from fleet.config import Field

_LOCAL = "local steps send no gradients, and the momentum that travels would stay behind"


class OneBit(Codec):
    """Train by the script's Adam for ``freeze_steps`` steps; then its variance stays, and its momentum travels as signs.

    Each trainer adds its gradient to its part of the momentum, sends the signs and one scale a parameter (the mean of the absolute
    values), and keeps what they leave out for the next step (error feedback). Every trainer adds up all of them, so the server's
    second compression of the paper falls away. The others see a gradient: the one that makes Adam's momentum what arrived.
    With one trainer nothing is sent, and Adam stays as it is.

    Bytes a step: 4 a float at first, then 1/8. Use it for Adam on slow links, with freeze_steps of 15 to 20 % of all steps.
    State: momentum (alike on all trainers) and what was left out; on another number of trainers the latter is added up and shared.

    Source: Tang et al., "1-bit Adam: Communication Efficient Large-Scale Training with Adam's Convergence Speed", ICML 2021.
    """

    name = "onebit"
    fields = (Field("freeze_steps", int, 1000, "steps of plain Adam, in which everything is sent", low=1),)
    conflicts = {
        "lars": "onebit needs the script's Adam, and lars takes the place of Momentum",
        "lamb": "onebit needs the script's Adam, and lamb takes its place",
        "localsgd": _LOCAL,
        "post_localsgd": _LOCAL,
        "parameter_server": "the variance of rows on servers would not stay",
    }

    freeze_steps: int

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._beta1 = 0.9
        self._frozen = False  # the variance stays; set between two steps
        self._momentum: dict[str, Any] = {}  # parameter -> float32[n], of the reduced gradients

    def wrap_optimizer(self, optimizer: Any, trainer: Trainer) -> Any:
        """Take Adam's beta1; refuse another optimizer, whose variance could not be frozen."""
        import paddle

        check_script(self.name, optimizer, paddle.optimizer.Adam)
        self._beta1 = float(optimizer._beta1)
        return optimizer

    def reduce(self, parts: list[Part], wire: Wire) -> None:
        """Put the reduced gradients in place: at first the sums, later what the signs of all make of the momentum."""
        import numpy as np

        beta, rest = np.float32(self._beta1), np.float32(1 - self._beta1)
        before = [self._momentum.get(part.name, np.float32(0)) for part in parts]
        if self._frozen:
            for part, momentum in zip(parts, before, strict=True):
                part.values *= rest
                part.values += beta / np.float32(wire.world_size) * momentum
                part.values += self.lost.get(part.name, np.float32(0))
        super().reduce(parts, wire)
        for part, momentum in zip(parts, before, strict=True):
            now = part.values.copy() if self._frozen else beta * momentum + rest * part.values
            if self._frozen:
                part.values -= beta * momentum
                part.values /= rest
            if np.isfinite(now).all():  # a NaN would come back for ever
                self._momentum[part.name] = now

    def encode(self, part: Part) -> bytes:
        """Return the values; frozen, their scale and a bit a value."""
        import numpy as np

        if not self._frozen:
            return bytes(part.values.tobytes())
        scale = np.abs(part.values).mean(dtype=np.float32)
        signs = part.values >= 0
        lost = part.values - np.where(signs, scale, -scale)
        self.lost[part.name] = lost if np.isfinite(lost).all() else np.zeros_like(lost)
        return bytes(np.float32(scale).tobytes() + np.packbits(signs).tobytes())

    def decode(self, payload: bytes, part: Part) -> Any:
        """Return the values; frozen, the scale with each one's sign."""
        import numpy as np

        if not self._frozen:
            return np.frombuffer(payload, np.float32)
        scale = np.frombuffer(payload, np.float32, 1)[0]
        signs = np.unpackbits(np.frombuffer(payload, np.uint8, offset=4), count=part.values.size)
        return np.where(signs, scale, -scale).astype(np.float32)

    def after_step(self, trainer: Trainer) -> None:
        """Freeze the variance, and with it the correction of its bias, behind step ``freeze_steps``."""
        if trainer.world_size == 1 or self._frozen or trainer.step < self.freeze_steps:
            return
        self._frozen = True
        optimizer = trainer.optimizer
        for name, powers in optimizer._accumulators.items():
            if name.startswith("beta2_pow"):
                for power in powers.values():
                    power.scale_(1 / float(optimizer._beta2))  # Paddle keeps the next step's; from now on it is the last one's
        optimizer._beta2 = 1.0  # variance = 1 x variance + 0 x gradient^2, and 1 is the power's factor

    def state(self, trainer: Trainer) -> State:
        """Return the momentum, what was left out, and whether the variance stays; that itself is the optimizer's."""
        momentum = {f"momentum/{name}": value.copy() for name, value in self._momentum.items()}
        return {**super().state(trainer), **momentum, "frozen": self._frozen}

    def load(self, states: Sequence[State], trainer: Trainer) -> None:
        """Take them up."""
        super().load(states, trainer)
        self._momentum = {k[9:]: v.copy() for k, v in states[0].items() if k.startswith("momentum/")}
        self._frozen = bool(states[0]["frozen"]) and trainer.world_size > 1
        if self._frozen:
            trainer.optimizer._beta2 = 1.0
