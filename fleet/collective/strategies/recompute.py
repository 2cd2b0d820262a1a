"""``recompute``: activations are made again in backward instead of kept."""

from __future__ import annotations

import functools
from typing import Any

from fleet.collective.strategies.hooks import Strategy, Trainer
from fleet.config import Field, did_you_mean
from fleet.errors import ConfigError


class Recompute(Strategy):
    """Keep of the named layers only what goes in, and run them once more in backward; random numbers are drawn alike.

    Without ``layers``: every child of an ``nn.Sequential`` model, else every member of the ``nn.Sequential`` and ``nn.LayerList``
    that the model holds (a transformer's blocks). Bytes a step: none; about a third more time, memory of activations as of one
    segment and the borders between them. Use it for deep models that do not fit.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
    """

    name = "recompute"
    fields = (Field("layers", list, (), "names of layers in the model; none: chosen as said above"),)
    conflicts = {"parameter_server": "a look-up that runs twice would ask the servers twice"}

    layers: tuple[str, ...]

    def wrap_model(self, model: Any, trainer: Trainer) -> None:
        """Run each segment through Paddle's recompute while it trains."""
        named = dict(model.named_sublayers())
        for name in self.layers:
            if name not in named:
                at = "strategy.recompute.layers"
                raise ConfigError(f"the model has no layer {name!r}", at=at, fix=did_you_mean(name, named))
        chosen = [named[name] for name in self.layers] or _segments(model)
        if not chosen:
            fix = "name the layers: recompute={'layers': [...]}, names as in model.named_sublayers()"
            raise ConfigError("recompute finds no segments in this model", at="strategy.recompute", fix=fix)
        for layer in chosen:
            layer.forward = functools.partial(_again, layer, layer.forward)


def _segments(model: Any) -> list[Any]:
    from paddle import nn

    holders = [model] if isinstance(model, nn.Sequential) else []
    holders = holders or [layer for layer in model.children() if isinstance(layer, (nn.Sequential, nn.LayerList))]
    return [layer for holder in holders for layer in holder.children()]


def _again(layer: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    import paddle
    from paddle.distributed.fleet.utils import recompute

    if not layer.training or not paddle.is_grad_enabled():
        return forward(*args, **kwargs)
    return recompute(forward, *args, use_reentrant=False, **kwargs)
