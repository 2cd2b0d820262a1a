"""``fp16_allreduce``: gradients travel as float16."""

from __future__ import annotations

from typing import Any

from fleet.collective.strategies.codec import Codec, Part


class Fp16Allreduce(Codec):
    """Send each trainer's gradients as float16, and add them up in float32.

    Bytes a step: 2 a float, half of the plain. Rounding keeps 11 bits; below 6e-8 a value becomes 0, above 65504 infinite:
    where gradients are that large, take ``bf16_allreduce``. Use it on a network slower than the host's memory.

    Source: Paddle's ``FP16AllReduceOptimizer``; Gloo's own sums of float16 are infinite (paddle 3.3.1), so they are not used.
    """

    name = "fp16_allreduce"

    def encode(self, part: Part) -> bytes:
        """Round to float16."""
        import numpy as np

        with np.errstate(over="ignore"):
            payload: bytes = part.values.astype(np.float16).tobytes()
        return payload

    def decode(self, payload: bytes, part: Part) -> Any:
        """Return the values as float32."""
        import numpy as np

        return np.frombuffer(payload, np.float16).astype(np.float32)
