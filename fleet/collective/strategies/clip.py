"""``clip``: no step is longer than a given norm of its gradient."""

from __future__ import annotations

from typing import Any

from fleet.collective.strategies.gradient_merge import scale
from fleet.collective.strategies.hooks import Strategy, Trainer
from fleet.config import Field
from fleet.errors import ConfigError

_WITH_TABLES = "the norm over all parameters would leave the rows on servers out"


class Clip(Strategy):
    """Scale all gradients down together if their common norm is above ``norm``.

    The norm is that of the reduced gradient, as one machine would have it: after micro-steps have been merged and codecs have
    decoded. Local steps (``localsgd``) are clipped by each trainer's own norm. Bytes a step: none. Use it for recurrent
    nets and transformers, and wherever one bad batch must not throw the model away.

    Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.
    """

    name = "clip"
    fields = (Field("norm", float, 1.0, "largest norm over all gradients together", low=1e-12),)
    conflicts = {"parameter_server": _WITH_TABLES}

    norm: float

    def wrap_optimizer(self, optimizer: Any, trainer: Trainer) -> Any:
        """Refuse an optimizer that clips too."""
        if getattr(optimizer, "_grad_clip", None) is not None:
            what = f"clip is on, and the optimizer clips by {type(optimizer._grad_clip).__name__}"
            raise ConfigError(what, at="strategy.clip", fix="leave one of them away: grad_clip of the optimizer, or clip")
        return optimizer

    def on_gradients(self, trainer: Trainer) -> None:
        """Clip. All trainers have the same gradients, so the same factor."""
        norm = sum(_squares(p.grad) for _, p in trainer.parameters if p.grad is not None) ** 0.5
        if norm > self.norm:
            scale(trainer, self.norm / norm)


def _squares(gradient: Any) -> float:
    import numpy as np

    if gradient.is_selected_rows():
        return float(np.square(np.array(gradient.get_selected_rows().get_tensor()), dtype=np.float64).sum())
    wide = gradient.detach().astype("float32" if str(gradient.dtype).endswith("16") else gradient.dtype)
    return float(wide.square().sum())
