"""``lamb``: Adam with a learning rate for each layer, by the ratio of its weight's norm to its update's."""

from __future__ import annotations

from typing import Any

from fleet.collective.strategies.hooks import Strategy, Trainer
from fleet.collective.strategies.lars import check_script, excluded
from fleet.config import Field


class Lamb(Strategy):
    """Take the place of the script's Adam by ``paddle.optimizer.Lamb``: same rate, betas, epsilon and parameters.

    Bytes a step: none. Use it for transformers with global batches from about 4,000 on, with warm-up.

    Source: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", ICLR 2020.
    """

    name = "lamb"
    fields = (
        Field("lamb_weight_decay", float, 0.01, "weight decay", low=0),
        Field("exclude_from_weight_decay", list, (), "parts of names (in the model) of parameters that do not decay"),
    )
    conflicts = {"lars": "each brings its own optimizer"}

    lamb_weight_decay: float
    exclude_from_weight_decay: tuple[str, ...]

    def wrap_optimizer(self, optimizer: Any, trainer: Trainer) -> Any:
        """Return the LAMB optimizer."""
        import paddle

        check_script(self.name, optimizer, paddle.optimizer.Adam)
        stay = set(excluded(trainer, self.exclude_from_weight_decay, "lamb"))
        return paddle.optimizer.Lamb(
            optimizer._learning_rate,
            lamb_weight_decay=self.lamb_weight_decay,
            beta1=optimizer._beta1,
            beta2=optimizer._beta2,
            epsilon=optimizer._epsilon,
            parameters=optimizer._parameter_list,
            grad_clip=optimizer._grad_clip,
            exclude_from_weight_decay_fn=(lambda parameter: parameter.name in stay) if stay else None,
        )
