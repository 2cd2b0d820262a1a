"""The raw Criteo format, and what becomes of a field. Others can reproduce every number from this page.

One sample per line, 40 fields between tabs: the label (0 or 1), 13 integers (negative ones occur), 26 strings of eight
hexadecimal digits. Integers and strings may be blank. Lines end in LF or CRLF; the last one may end in neither.

**Dense**: an integer v becomes ``sign(v) * log(1 + |v|)`` as float32; a blank becomes 0.

**Ids**: the string of slot s (0 to 25) with the value v becomes ``26 + mix(s * 2**32 + v) % (num_buckets - 26)``; a blank
becomes ``s``, which no string becomes. ``mix`` is the output function of splitmix64 (``fleet/data/mixing.py``).

So the same string in two slots has two ids, one id serves one table for all slots, and nothing depends on Python's ``hash``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.data.mixing import U64, mix, remainder
from fleet.errors import ConfigError

NUM_DENSE = 13
NUM_SLOTS = 26
NUM_FIELDS = 1 + NUM_DENSE + NUM_SLOTS
HASH = "splitmix64-v1"  # changes whenever an id would; a pack says which it was made with


def slot_ids(values: U64, blank: npt.NDArray[np.bool_], num_buckets: int) -> npt.NDArray[np.int64]:
    """Return the ids, int64[n, 26], of the strings' values, uint64[n, 26] below 2**32 (overwritten)."""
    values += np.arange(NUM_SLOTS, dtype=np.uint64) << np.uint64(32)
    z = remainder(mix(values), num_buckets - NUM_SLOTS)
    z += np.uint64(NUM_SLOTS)
    ids = z.view(np.int64)
    np.copyto(ids, np.arange(NUM_SLOTS, dtype=np.int64), where=blank)
    return ids


def squash(integers: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return sign(v) * log(1 + \\|v\\|) as float32 of the same shape; 0 stays 0."""
    magnitude: npt.NDArray[np.float32] = np.abs(integers).astype(np.float32)
    magnitude += np.float32(1)
    np.log(magnitude, out=magnitude)
    np.copysign(magnitude, integers.astype(np.float32), out=magnitude)
    return magnitude


def check_num_buckets(num_buckets: int) -> int:
    """Return ``num_buckets`` if it leaves room for the blanks' ids and fits the hash."""
    if not NUM_SLOTS < num_buckets <= 2**62:
        raise ConfigError(
            f"num_buckets must be an int from {NUM_SLOTS + 1} to 2**62, got {num_buckets}",
            at="fleet.data.criteo",
            fix=f"use more buckets: the first {NUM_SLOTS} ids are those of the blanks",
        )
    return num_buckets
