"""Data: loaders that know their position, and readers.

Importing this imports neither Paddle nor NumPy: a name is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleet.data.arrays import ArrayLoader
    from fleet.data.batch_sampler import DistributedBatchSampler
    from fleet.data.loader import ShardedLoader
    from fleet.data.sampler import GlobalBatches, Part

_HOME = {
    "ArrayLoader": "fleet.data.arrays",
    "DistributedBatchSampler": "fleet.data.batch_sampler",
    "GlobalBatches": "fleet.data.sampler",
    "Part": "fleet.data.sampler",
    "ShardedLoader": "fleet.data.loader",
}

__all__ = ["ArrayLoader", "DistributedBatchSampler", "GlobalBatches", "Part", "ShardedLoader"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fleet.data' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
