"""Data: loaders that know their position, and readers.

Importing this imports neither Paddle nor NumPy: a name is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleet.data.arrays import ArrayLoader
    from fleet.data.batch_sampler import DistributedBatchSampler
    from fleet.data.file_loader import FileLoader
    from fleet.data.format import TextFormat
    from fleet.data.generators import MultiSlotDataGenerator, MultiSlotStringDataGenerator
    from fleet.data.image_loader import ImageLoader
    from fleet.data.images import Images
    from fleet.data.libffm import Libffm
    from fleet.data.loader import ShardedLoader
    from fleet.data.multislot import MultiSlot
    from fleet.data.parallel_text import ParallelText
    from fleet.data.parquet import Parquet
    from fleet.data.sampler import GlobalBatches, Part
    from fleet.data.skip_gram import SkipGram
    from fleet.data.slot_value import SlotValue
    from fleet.data.slots import Slot
    from fleet.data.stream import shard
    from fleet.data.views import CentreView, RandomView
    from fleet.data.vocabulary import Vocabulary

_HOME = {
    "ArrayLoader": "fleet.data.arrays",
    "CentreView": "fleet.data.views",
    "DistributedBatchSampler": "fleet.data.batch_sampler",
    "FileLoader": "fleet.data.file_loader",
    "GlobalBatches": "fleet.data.sampler",
    "ImageLoader": "fleet.data.image_loader",
    "Images": "fleet.data.images",
    "Libffm": "fleet.data.libffm",
    "MultiSlot": "fleet.data.multislot",
    "MultiSlotDataGenerator": "fleet.data.generators",
    "MultiSlotStringDataGenerator": "fleet.data.generators",
    "ParallelText": "fleet.data.parallel_text",
    "Parquet": "fleet.data.parquet",
    "Part": "fleet.data.sampler",
    "RandomView": "fleet.data.views",
    "ShardedLoader": "fleet.data.loader",
    "SkipGram": "fleet.data.skip_gram",
    "Slot": "fleet.data.slots",
    "SlotValue": "fleet.data.slot_value",
    "TextFormat": "fleet.data.format",
    "Vocabulary": "fleet.data.vocabulary",
    "shard": "fleet.data.stream",
}

__all__ = [
    "ArrayLoader", "CentreView", "DistributedBatchSampler", "FileLoader", "GlobalBatches", "ImageLoader", "Images", "Libffm",
    "MultiSlot", "MultiSlotDataGenerator", "MultiSlotStringDataGenerator", "ParallelText", "Parquet", "Part", "RandomView",
    "ShardedLoader", "SkipGram", "Slot", "SlotValue", "TextFormat", "Vocabulary", "shard",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fleet.data' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
