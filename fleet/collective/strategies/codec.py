"""The face of a codec: how one bucket's gradients travel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from fleet.collective.strategies.hooks import State, Strategy, Trainer, Wire, wrong_hook


class Part:
    """One parameter's gradient within a bucket."""

    def __init__(self, name: str, shape: tuple[int, ...], values: Any) -> None:
        self.name, self.shape = name, shape
        self.values = values  # float32[n], flat: in, this trainer's weighed gradient; out, the sum over all trainers


class Codec(Strategy):
    """How gradients travel. At most one is in force; with one trainer nothing travels, and it rests.

    Without ``error_feedback`` a codec is ``encode`` and ``decode``. With it, what ``decode(encode(x))`` loses of x is kept, by
    parameter, and added to its next gradient (Seide et al. 2014; Karimireddy et al. 2019). On another number of trainers
    what was kept is added up over the trainers then, and shared equally among those now.
    """

    error_feedback: ClassVar[bool] = False
    per_trainer = True
    encodes = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.lost: dict[str, Any] = {}  # parameter -> float32[n] that its encodings so far left out

    def encode(self, part: Part) -> bytes:
        """Return ``part.values`` as bytes."""
        raise wrong_hook(self, "encode", "is missing", "write encode(self, part) -> bytes, or your own reduce(self, parts, wire)")

    def decode(self, payload: bytes, part: Part) -> Any:
        """Return float32[n] from any trainer's bytes for ``part``; its ``values`` are not to be looked at."""
        raise wrong_hook(self, "decode", "is missing", "write decode(self, payload, part) -> float32[n], the reverse of encode")

    def reduce(self, parts: list[Part], wire: Wire) -> None:
        """Put the sum over all trainers into each part's ``values``. Runs in the sender's thread: it touches no Paddle tensor.

        Here: the encoded parts are gathered, and added up in float32 in rank order: the same bits on every trainer.
        """
        import numpy as np

        payloads = [self._encoded(part) for part in parts]
        lengths = np.array([len(p) for p in payloads], "<u8").tobytes()
        for r, message in enumerate(wire.gather(lengths + b"".join(payloads))):
            start = len(lengths)
            for part, length in zip(parts, np.frombuffer(message, "<u8", len(parts)), strict=True):
                values = self._decoded(message[start : start + int(length)], part)
                start += int(length)
                if r == 0:
                    np.copyto(part.values, values)
                else:
                    part.values += values

    def state(self, trainer: Trainer) -> State:
        """Return what encoding has left out so far, by parameter."""
        return {f"lost/{name}": lost.copy() for name, lost in self.lost.items()}

    def load(self, states: Sequence[State], trainer: Trainer) -> None:
        """Take up this trainer's, or on another number of trainers an equal part of the sum."""
        self.lost = own_or_shared(states, trainer, "lost/")

    def _encoded(self, part: Part) -> bytes:
        import numpy as np

        if not self.error_feedback:
            return self._checked(self.encode(part))
        if part.name in self.lost:
            part.values += self.lost[part.name]
        payload = self._checked(self.encode(part))
        lost = part.values - self._decoded(payload, part)
        self.lost[part.name] = lost if np.isfinite(lost).all() else np.zeros_like(lost)  # a NaN would come back for ever
        return payload

    def _checked(self, payload: object) -> bytes:
        if isinstance(payload, bytes):
            return payload
        raise wrong_hook(self, "encode", f"returned a {type(payload).__name__}", "return bytes, for example array.tobytes()")

    def _decoded(self, payload: bytes, part: Part) -> Any:
        import numpy as np

        values = self.decode(payload, part)
        if isinstance(values, np.ndarray) and values.dtype == np.float32 and values.size == part.values.size:
            return values.reshape(-1)
        got = f"{values.dtype}{list(values.shape)}" if isinstance(values, np.ndarray) else f"a {type(values).__name__}"
        what = f"returned {got} for {part.name}"
        raise wrong_hook(self, "decode", what, f"return float32[{part.values.size}], as many values as the parameter has")


def own_or_shared(states: Sequence[State], trainer: Trainer, prefix: str) -> dict[str, Any]:
    """Return the arrays under ``prefix`` of this trainer's state; on another number of trainers an equal part of their sum."""
    import numpy as np

    if len(states) == trainer.world_size:
        mine = states[trainer.rank]
        return {key[len(prefix) :]: np.array(value) for key, value in mine.items() if key.startswith(prefix)}
    total: dict[str, Any] = {}
    for state in states:
        for key, value in state.items():
            if key.startswith(prefix):
                name = key[len(prefix) :]
                total[name] = total[name] + value if name in total else np.array(value)
    return {name: value / np.float32(trainer.world_size) for name, value in total.items()}
