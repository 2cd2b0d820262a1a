"""``buckets``: how gradients are grouped into messages.

The first bucket is small so that sending starts early in the backward pass; the others are large so that the fixed cost
of a message is paid seldom. In bytes a step nothing changes. Source: Li et al., "PyTorch Distributed", VLDB 2020, 3.2.3.
"""

from __future__ import annotations

from fleet.collective.strategies.hooks import Strategy
from fleet.config import Field


class Buckets(Strategy):
    """Sizes of buckets. The reducer cuts by them; no hook is needed."""

    name = "buckets"
    fields = (
        Field("first_mb", float, 4.0, "size of the bucket that is sent first, in MB", low=0.001, high=4096),
        Field("mb", float, 16.0, "size of every later bucket, in MB", low=0.001, high=4096),
    )
