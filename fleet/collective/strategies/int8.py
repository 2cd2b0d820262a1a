"""``int8``: gradients travel as bytes."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from fleet.collective.strategies.codec import Codec, Part
from fleet.collective.strategies.hooks import State, Trainer, Wire
from fleet.config import Field


class Int8(Codec):
    """Send each block of a gradient as bytes and one scale, rounded at random: the mean of what arrives is the gradient.

    A block's largest value becomes 127. A value between two steps goes up with the probability of its distance from the lower
    one, drawn from (rank, parameter, how often it was sent): the same run gives the same bits. A block with a NaN or an infinity
    becomes NaN.

    Bytes a step: 1 + 4 / ``block`` a float, a quarter of the plain. Use it on links of a few hundred Mb/s.
    State: how often each parameter was sent; on another number of trainers the highest count.

    Source: Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", NeurIPS 2017.
    """

    name = "int8"
    fields = (Field("block", int, 1024, "values that share a scale", low=8, high=1 << 20),)

    block: int

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._rank = 0
        self._sent: dict[str, int] = {}  # parameter -> times

    def reduce(self, parts: list[Part], wire: Wire) -> None:
        """As every codec; it draws by rank."""
        self._rank = wire.rank
        super().reduce(parts, wire)

    def encode(self, part: Part) -> bytes:
        """Return a float32 scale a block, then a byte a value."""
        import numpy as np

        count = self._sent[part.name] = self._sent.get(part.name, 0) + 1
        draw = np.random.Generator(np.random.Philox(key=[zlib.crc32(part.name.encode()), (count << 16) + self._rank]))
        blocks = _blocks(part.values, self.block)
        with np.errstate(invalid="ignore"):
            scales = np.abs(blocks).max(axis=1) / np.float32(127)
            steps = blocks / np.where(scales > 0, scales, 1)[:, None].astype(np.float32)
            low = np.floor(steps)
            steps = low + (draw.random(blocks.shape, np.float32) < steps - low)
        finite = np.isfinite(scales)
        values = np.where(finite[:, None], np.clip(steps, -127, 127), 0).astype(np.int8)
        scales = np.where(finite, scales, np.nan).astype(np.float32)
        return scales.tobytes() + values.reshape(-1)[: part.values.size].tobytes()

    def decode(self, payload: bytes, part: Part) -> Any:
        """Return steps times scale."""
        import numpy as np

        num_blocks = -(-part.values.size // self.block)
        scales = np.frombuffer(payload, np.float32, num_blocks)
        values = np.frombuffer(payload, np.int8, offset=4 * num_blocks).astype(np.float32)
        return (_blocks(values, self.block) * scales[:, None]).reshape(-1)[: part.values.size]

    def state(self, trainer: Trainer) -> State:
        """Return how often each parameter was sent."""
        return {f"sent/{name}": count for name, count in self._sent.items()}

    def load(self, states: Sequence[State], trainer: Trainer) -> None:
        """Go on drawing where the run that saved was."""
        held = [states[r] for r in range(len(states))]
        self._sent = {key[5:]: max(int(s.get(key, 0)) for s in held) for key in held[0]}


def _blocks(values: Any, size: int) -> Any:
    """Return float32[blocks, size], the last one filled up with zeros."""
    import numpy as np

    padded = np.zeros(-(-values.size // size) * size, np.float32)
    padded[: values.size] = values
    return padded.reshape(-1, size)
