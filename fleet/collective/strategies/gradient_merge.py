"""``gradient_merge``: the gradients of several micro-steps make one step. Nothing is sent in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fleet.collective.strategies.codec import own_or_shared
from fleet.collective.strategies.hooks import State, Strategy, Trainer
from fleet.config import Field

_WITH_TABLES = "rows on servers are updated by every batch, and would not wait for the group"


class GradientMerge(Strategy):
    """Add up the gradients of ``k_steps`` batches, then take one step: a global batch larger than memory.

    ``optimizer.step()`` and ``clear_grad()`` are called after every batch as ever; all but the last of a group do nothing. An
    epoch that ends in the middle of a group (a loader of ``distributed_loader`` says so) is applied as it is, averaged over the
    micro-steps that it has; where nobody knows an epoch's end, the group goes on in the next one.

    Bytes a step: those of one micro-step. Use it when the batch that trains well does not fit, or when sending is slow.
    State: the gradients of a group that is under way; on another number of trainers they are added up and shared equally.

    Source: Paddle's ``GradientMergeOptimizer``; the idea is older than its names.
    """

    name = "gradient_merge"
    fields = (
        Field("k_steps", int, 1, "micro-steps that make one step", low=1),
        Field("avg", bool, True, "divide the sum by the number of micro-steps"),
    )
    conflicts = {"parameter_server": _WITH_TABLES}
    per_trainer = True

    k_steps: int
    avg: bool

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._done = 0  # micro-steps of this group that ended
        self._of_group = 1  # micro-steps of the group that is applied

    def meets(self, trainer: Trainer) -> str:
        """Let all but the last micro-step's gradients add up here."""
        return "now" if self._closes(trainer) else "later"

    def applies(self, trainer: Trainer) -> bool:
        """Count the micro-step; the last one of the group updates."""
        closes = self._closes(trainer)
        self._of_group, self._done = self._done + 1, 0 if closes else self._done + 1
        return closes

    def on_gradients(self, trainer: Trainer) -> None:
        """Turn the sum into the mean."""
        if self.avg and self._of_group > 1:
            scale(trainer, 1 / self._of_group)

    def state(self, trainer: Trainer) -> State:
        """Return how far the group is, and this trainer's gradients of it."""
        kept = {n: p.grad for n, p in trainer.parameters if self._done and p.grad is not None}
        return {"done": self._done, **{f"gradient/{name}": gradient.numpy() for name, gradient in kept.items()}}

    def load(self, states: Sequence[State], trainer: Trainer) -> None:
        """Go on in the middle of the group."""
        import paddle

        self._done = int(states[0]["done"])
        gradients = own_or_shared(states, trainer, "gradient/")
        for name, parameter in trainer.parameters:
            if name in gradients:
                parameter.clear_gradient(False)
                parameter.grad = paddle.to_tensor(gradients[name], dtype=parameter.dtype)
        trainer.unsent = bool(gradients)

    def _closes(self, trainer: Trainer) -> bool:
        return self._done + 1 >= self.k_steps or trainer.ends_epoch


def scale(trainer: Trainer, factor: float) -> None:
    """Multiply every gradient by ``factor``, in place."""
    import numpy as np
    import paddle

    with paddle.no_grad():
        for _, parameter in trainer.parameters:
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.is_selected_rows():
                rows = gradient.get_selected_rows().get_tensor()
                rows.set(np.array(rows) * np.float32(factor), gradient.place)
            else:
                gradient.scale_(factor)
