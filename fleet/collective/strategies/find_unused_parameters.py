"""``find_unused_parameters``: always on."""

from __future__ import annotations

from fleet.collective.strategies.hooks import Strategy


class FindUnusedParameters(Strategy):
    """Accept the switch of other frameworks: parameters that a step does not use, on all trainers or on some, never part them.

    Which gradients are there is told with each bucket, so nothing has to be searched for, and nothing is to be turned on. Bytes a
    step: a bit a parameter, always.
    """

    name = "find_unused_parameters"
