"""``deterministic``: the same run gives the same bits."""

from __future__ import annotations

from typing import Any

from fleet.collective.strategies.hooks import Strategy, Trainer


class Deterministic(Strategy):
    """Tell Paddle's GPU kernels to add up in one order. On CPUs, fleet's own sums and Paddle's are in one order anyway.

    The bits stay the same for the same number of trainers and of threads. Bytes a step: none. Use it to hunt a difference.
    """

    name = "deterministic"

    def wrap_optimizer(self, optimizer: Any, trainer: Trainer) -> Any:
        """Set Paddle's flags."""
        import paddle

        wanted = ("FLAGS_cudnn_deterministic", "FLAGS_embedding_deterministic")
        if paddle.is_compiled_with_cuda():
            paddle.set_flags({name: 1 for name in wanted})
        return optimizer
