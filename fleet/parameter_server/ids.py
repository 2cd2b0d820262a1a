"""Ids as a script gives them, checked, as the ``uint64[n]`` that tables take."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet.errors import TableError


def flat(given: NDArray[Any], vocabulary: int, table: str) -> NDArray[np.uint64]:
    """Return ids of any shape as ``uint64[n]``; ``vocabulary`` 0 takes any id.

    Raises:
        TableError: an id is negative, no integer, or outside the vocabulary.
    """
    if given.dtype.kind not in "iu":
        raise _bad(table, f"ids must be integers, got {given.dtype}", "cast them to int64")
    ids = given.reshape(-1)
    if ids.size:
        low, high = int(ids.min()), int(ids.max())
        if low < 0:
            at = int(np.flatnonzero(ids < 0)[0])
            raise _bad(
                table, f"id {int(ids[at])} at position {at} is negative", "hash ids to 0..2**63-1, or give a NumPy uint64 array"
            )
        if vocabulary and high >= vocabulary:
            at = int(np.flatnonzero(ids >= vocabulary)[0])
            fix = f"give ids below {vocabulary}, or train an open table: fleet.parameter_server.Embedding(dim)"
            raise _bad(table, f"id {int(ids[at])} at position {at} is outside the vocabulary of {vocabulary}", fix)
    return np.ascontiguousarray(ids, dtype=np.uint64)


def _bad(table: str, what: str, fix: str) -> TableError:
    return TableError(what, at=f"table {table!r}", fix=fix)
