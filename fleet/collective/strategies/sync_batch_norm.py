"""``sync_batch_norm``: batch norm over the whole batch, not over each trainer's part."""

from __future__ import annotations

import functools
from typing import Any

from fleet.collective.strategies.hooks import Strategy, Trainer

_LOCAL = "a local step does not wait for the others, and batch norm over all would"


class SyncBatchNorm(Strategy):
    """Let every BatchNorm of the model take mean and variance over all trainers' samples, forward and backward.

    Counts, means and sums of squares are gathered and put together (Chan et al. 1979), so that one process over the whole batch
    gives the same values up to rounding. Buckets wait for the end of backward, because the trainers exchange within it.

    Bytes a step: 20 a channel, in two exchanges a layer. Use it where a trainer's part of the batch is below about 16 samples.

    Source: Ioffe, Szegedy, "Batch Normalization", 2015; Zhang et al., "Context Encoding for Semantic Segmentation", CVPR 2018.
    """

    name = "sync_batch_norm"
    conflicts = {"localsgd": _LOCAL, "post_localsgd": _LOCAL}
    exchanges_in_backward = True

    def wrap_model(self, model: Any, trainer: Trainer) -> None:
        """Give each BatchNorm layer our forward; its parameters and buffers stay."""
        from paddle.nn.layer.norm import _BatchNormBase

        if trainer.world_size > 1:
            for layer in model.sublayers(include_self=True):
                if isinstance(layer, _BatchNormBase):
                    layer.forward = functools.partial(_forward, layer, layer.forward, trainer)


def _forward(layer: Any, forward: Any, trainer: Trainer, x: Any) -> Any:
    if not layer.training or layer._use_global_stats:
        return forward(x)
    return _normalize().apply(x, layer.weight, layer.bias, layer, trainer)


@functools.cache
def _normalize() -> Any:
    """Return the PyLayer; Paddle is loaded by now."""
    import numpy as np
    import paddle

    def spread(values: Any, like: Any, channel: int) -> Any:
        shape = [1] * len(like.shape)
        shape[channel] = -1
        return paddle.to_tensor(np.asarray(values, np.float32)).astype(like.dtype).reshape(shape)

    class Normalize(paddle.autograd.PyLayer):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, bias: Any, layer: Any, trainer: Trainer) -> Any:
            channel = 1 if layer._data_format.startswith("NC") else len(x.shape) - 1
            axes = [k for k in range(len(x.shape)) if k != channel]
            wide = x.astype("float32")
            here = wide.mean(axes)
            squares = (wide - here.reshape([-1 if k == channel else 1 for k in range(len(x.shape))])).square().sum(axes)
            count = int(x.size) // int(x.shape[channel]) if trainer.weight else 0
            trainer.wire.where = f"step {trainer.step}, batch norm"
            packed = np.concatenate([[np.float32(count)], here.numpy(), squares.numpy()]).astype(np.float32)
            gathered = [np.frombuffer(p, np.float32).astype(np.float64) for p in trainer.wire.gather(packed.tobytes())]
            ctx.total = max(sum(p[0] for p in gathered), 1)
            size = here.shape[0]
            mean = sum(p[0] * p[1 : 1 + size] for p in gathered if p[0]) / ctx.total
            within = sum(p[1 + size :] + p[0] * (p[1 : 1 + size] - mean) ** 2 for p in gathered if p[0])
            variance = within / ctx.total
            for held, now in ((layer._mean, mean), (layer._variance, variance)):
                held.set_value((held.numpy() * layer._momentum + now * (1 - layer._momentum)).astype(np.float32))
            ctx.trainer, ctx.weight, ctx.channel, ctx.axes = trainer, trainer.weight, channel, axes
            ctx.inverse = 1 / np.sqrt(variance + layer._epsilon)
            normal = (x - spread(mean, x, channel)) * spread(ctx.inverse, x, channel)
            ctx.save_for_backward(normal, weight)
            return normal * spread(weight.numpy(), x, channel) + spread(bias.numpy(), x, channel)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            normal, weight = ctx.saved_tensor()
            d_bias, d_weight = gradient.sum(ctx.axes), (gradient * normal).sum(ctx.axes)
            # A trainer's own loss counts by its part of the batch: the exchanged sums are those of the whole batch's loss.
            both = np.concatenate([d_bias.numpy(), d_weight.numpy()]).astype(np.float32) * np.float32(ctx.weight)
            ctx.trainer.wire.where = f"step {ctx.trainer.step}, batch norm in backward"
            sums = np.split(ctx.trainer.wire.sum(both) / ctx.total / (ctx.weight or 1.0), 2)
            inner = gradient - spread(sums[0], gradient, ctx.channel) - normal * spread(sums[1], gradient, ctx.channel)
            d_x = inner * spread(ctx.inverse * weight.numpy(), gradient, ctx.channel)
            return d_x, d_weight, d_bias

    return Normalize
