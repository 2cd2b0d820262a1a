"""``post_localsgd``: gradients meet at first; later each trainer steps by itself between averages."""

from __future__ import annotations

from fleet.collective.strategies.localsgd import LocalSgd
from fleet.config import Field


class PostLocalSgd(LocalSgd):
    """Let gradients meet for ``begin_step`` steps, while the model changes fast; then go on as ``localsgd``.

    Bytes a step: 4 a float at first, then 4 / ``k_steps``. Use it where ``localsgd`` from the beginning ends at a worse loss.
    State: as ``localsgd``.

    Source: Lin, Stich, Patel, Jaggi, "Don't Use Large Mini-Batches, Use Local SGD", ICLR 2020.
    """

    name = "post_localsgd"
    fields = (
        Field("k_steps", int, 4, "steps between two averages", low=1),
        Field("begin_step", int, 1000, "the last step whose gradients meet", low=1),
    )
    conflicts = {
        **LocalSgd.conflicts,
        "localsgd": "both say when parameters are averaged",
        "verify": "between two averages each trainer's parameters are its own",
        "dgc": "dgc keeps the momentum of the script's Momentum itself, and local steps send no gradients",
    }
