"""What one look-up asks for: ids, in bags or not, without their padding; checked before anything is pulled.

Ids that are pooled come as ``[..., n]``, where the last axis is a bag, or ragged: values in a row and the lengths of the bags.
Padding is left out here, so it is never sent, makes no row, and gets no gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fleet.errors import TableError
from fleet.parameter_server import native

POOLINGS = ("sum", "mean", "sqrtn")


class Lookup(NamedTuple):
    """The ids of one look-up, and how they become rows."""

    ids: NDArray[np.uint64]  # [n], without padding
    shape: list[int]  # of the result, without dim
    lengths: NDArray[np.int64] | None  # of the bags, without padding; None: every id is a row of the result
    places: NDArray[np.int64] | None  # of the ids among those given; None: all are there
    num_given: int  # ids, with padding


class Reader:
    """Reads the ids that one embedding is given.

    Args:
        at: the table, for messages.
        vocabulary: ids are below it; 0 takes any.
        pooling: None, or one of POOLINGS.
        padding: the id that stands for none; -1 stands for itself, also in a NumPy uint64 array.
    """

    def __init__(self, at: str, vocabulary: int, dim: int, pooling: str | None, padding: int | None) -> None:
        self._at, self._vocabulary, self._dim, self._pooling = at, vocabulary, dim, pooling
        self._padding = padding
        self._core = native.load()

    def read(self, given: Any, lengths: Any = None) -> Lookup:
        """Check ids and, if they are ragged, the lengths of their bags.

        Raises:
            TableError: an id is negative, no integer, or outside the vocabulary; lengths are negative, no integers, or do not
                add up; ids or lengths are not of a shape that can be pooled. Nothing was changed.
        """
        found = array_of(given)
        ids, shape = self._ids(found), list(found.shape)
        bags: NDArray[np.int64] | None = None
        if lengths is not None:
            told = array_of(lengths)
            shape, bags = list(told.shape), self._lengths(told, ids.size)
        elif self._pooling is not None:
            if not shape:
                raise self._bad("one id without an axis to pool over", "give ids [..., n], or values and lengths")
            bags = np.full(int(np.prod(shape[:-1], dtype=np.int64)), shape.pop(), dtype=np.int64)
        if self._padding is not None:
            kept = self._core.drop_padding(ids, self._padding % 2**64, bags)
            if kept is not None:
                return Lookup(kept[0], shape, kept[2], kept[1], ids.size)
        return Lookup(ids, shape, bags, None, ids.size)

    def weights(self, given: Any, lookup: Lookup) -> NDArray[np.float32]:
        """Return the weights of the ids that are no padding, ``float32[n]``.

        Raises:
            TableError: another number of weights than ids, or one that is NaN or infinite.
        """
        found = array_of(given)
        if found.size != lookup.num_given or found.dtype.kind not in "fiu":
            fix = "give one number per id, padding included"
            raise self._bad(f"{found.size} weights of type {found.dtype} for {lookup.num_given} ids", fix)
        flat: NDArray[np.float32] = np.ascontiguousarray(found.reshape(-1), dtype=np.float32)
        bad = np.flatnonzero(~np.isfinite(flat))
        if bad.size:
            fix = "find where it comes from: a weight is a finite float32"
            what = f"{bad.size} of {flat.size} weights are not finite: {flat[bad[0]]} at position {bad[0]}"
            raise self._bad(what, fix)
        return flat if lookup.places is None else flat[lookup.places]

    def _ids(self, given: NDArray[Any]) -> NDArray[np.uint64]:
        if given.dtype.kind not in "iu":
            raise self._bad(f"ids must be integers, got {given.dtype}", "cast them to int64")
        flat = given.reshape(-1)
        if flat.size:
            self._check_range(flat)
        return np.ascontiguousarray(flat, dtype=np.uint64)

    def _check_range(self, flat: NDArray[Any]) -> None:
        low, high = int(flat.min()), int(flat.max())
        if low >= 0 and (not self._vocabulary or high < self._vocabulary):
            return
        real = np.ones(flat.size, dtype=bool) if self._padding is None else flat.astype(np.uint64) != self._padding % 2**64
        negative = np.flatnonzero((flat < 0) & real)
        if negative.size:
            at = negative[0]
            fix = "hash ids to 0..2**63-1, or give a NumPy uint64 array; padding_id= names an id that stands for none"
            raise self._bad(f"id {int(flat[at])} at position {at} is negative", fix)
        outside = np.flatnonzero((flat >= self._vocabulary) & real) if self._vocabulary else negative
        if outside.size:
            at = outside[0]
            fix = f"give ids below {self._vocabulary}, or an open table: fleet.parameter_server.Embedding({self._dim})"
            raise self._bad(f"id {int(flat[at])} at position {at} is outside the vocabulary of {self._vocabulary}", fix)

    def _lengths(self, given: NDArray[Any], num_ids: int) -> NDArray[np.int64]:
        if given.dtype.kind not in "iu":
            raise self._bad(f"lengths must be integers, got {given.dtype}", "give the number of ids of each bag")
        flat: NDArray[np.int64] = np.ascontiguousarray(given.reshape(-1), dtype=np.int64)
        negative = np.flatnonzero(flat < 0)
        if negative.size:
            raise self._bad(f"length {flat[negative[0]]} at position {negative[0]} is negative", "an empty bag has length 0")
        total = sum(flat.tolist()) if flat.size and int(flat.max()) > 2**40 else int(flat.sum())
        if total != num_ids:
            fix = "give the ids of all bags in a row, and one length a bag"
            raise self._bad(f"the lengths of {flat.size} bags add up to {total}, but there are {num_ids} ids", fix)
        return flat

    def _bad(self, what: str, fix: str) -> TableError:
        return TableError(what, at=self._at, fix=fix)


def array_of(given: Any) -> NDArray[Any]:
    """Return what was given as a NumPy array."""
    if isinstance(given, np.ndarray):
        return given
    return np.asarray(given.numpy() if hasattr(given, "numpy") else given)  # a Paddle tensor
