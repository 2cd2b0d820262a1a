"""The Criteo click logs: raw text, a decoded cache of it, and text of the same format with a planted signal.

    python -m fleet.data.criteo generate OUT --samples 400000     # OUT/train, OUT/test, the AUC that is possible
    python -m fleet.data.criteo pack OUT/train OUT/train.pack     # NumPy arrays that train at memory speed

The format, the ids and the numbers are defined in ``layout.py``.
"""

from __future__ import annotations

from fleet.data.criteo.batches import read
from fleet.data.criteo.cache import locked, open_pack, pack, read_meta
from fleet.data.criteo.generator import generate, load_planted, planted_files
from fleet.data.criteo.layout import NUM_DENSE, NUM_SLOTS
from fleet.data.criteo.parse import Criteo
from fleet.data.criteo.planted import auc

__all__ = [
    "NUM_DENSE", "NUM_SLOTS", "Criteo", "auc", "generate", "load_planted", "locked", "open_pack", "pack", "planted_files",
    "read", "read_meta",
]  # fmt: skip
