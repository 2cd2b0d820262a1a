"""How often each id of a batch was seen, and how often with a click: what a table with row life is told beside its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet.errors import ConfigError, TableError
from fleet.parameter_server.lookup import Lookup, array_of

Sightings = NDArray[np.uint32]  # [1, n]: shows of n keys; [2, n]: and their clicks


def clicks_of(given: Any, lookup: Lookup, ids: Any, at: str) -> NDArray[np.bool_]:
    """Return whether each id that is no padding was clicked: ``bool[n]``.

    Args:
        given: 0 or 1 for each id, each bag, or each sample: the first axis of ``ids``.

    Raises:
        TableError: another number of values, or another value than 0 and 1.
    """
    found = array_of(given).reshape(-1)
    rows = ids.shape[0] if len(ids.shape) else 0
    if found.dtype.kind not in "biuf" or not ((found == 0) | (found == 1)).all():
        raise TableError("clicks must be 0 or 1", at=at, fix="give the labels of the batch: 1 where it was clicked")
    clicked: NDArray[np.bool_] = found.astype(bool)
    if lookup.lengths is not None and found.size == lookup.lengths.size != lookup.num_given:
        return np.repeat(clicked, lookup.lengths)
    if found.size != lookup.num_given:
        if not rows or found.size != rows:
            what = f"{found.size} clicks for {lookup.num_given} ids of {rows} samples"
            raise TableError(what, at=at, fix="give one click a sample, a bag, or an id, padding included")
        clicked = np.repeat(clicked, lookup.num_given // rows)
    return clicked if lookup.places is None else clicked[lookup.places]


def of_bytes(given: memoryview | None, num_rows: int, num_keys: int) -> Sightings | None:
    """Return the sightings that a message carries."""
    return None if given is None else np.frombuffer(given, dtype=np.uint32).reshape(num_rows, num_keys)


def count(inverse: NDArray[np.uint32], num_keys: int, clicks: NDArray[np.bool_] | None) -> Sightings:
    """Return the sightings of a batch's unique keys; ``inverse`` names the key of each id."""
    counts = [np.bincount(inverse, minlength=num_keys)]
    if clicks is not None:
        counts.append(np.bincount(inverse[clicks], minlength=num_keys))
    return np.stack(counts).astype(np.uint32)


def merged(core: Any, parts: list[tuple[NDArray[np.uint64], Sightings | None]]) -> Sightings | None:
    """Return the sums over several pushes, in the order of keys that ``core.merge_pushes`` gives their gradients.

    Exact up to 2**24 sightings of a key: they are added up as float32.
    """
    counted = [(keys, counts) for keys, counts in parts if counts is not None]
    if len(counted) < len(parts):
        return None
    columns = [(keys, np.ascontiguousarray(counts.T, dtype=np.float32)) for keys, counts in counted]
    return np.ascontiguousarray(core.merge_pushes(columns)[1].T).astype(np.uint32)


def check(given: Sightings | None, num_rows: int, num_keys: int, table: str, at: str) -> None:
    """Refuse sightings that are not what a table asks for.

    Raises:
        TableError: they are missing, not asked for, or of another shape.
    """
    shape = None if given is None else given.shape
    wanted = (num_rows, num_keys) if num_rows else None
    if shape != wanted:
        raise TableError(f"sightings of shape {shape} for table {table!r}, which asks for {wanted}", at=at,
                         fix="send shows, and clicks, as docs/wire.md says for the table's life")  # fmt: skip


def refuse_clicks(given: Any, num_rows: int, learns: bool, at: str) -> None:
    """Refuse clicks that nobody counts, and a training look-up without the clicks that its rows are judged by.

    Raises:
        ConfigError: either.
    """
    if given is not None and num_rows < 2:
        fix = 'leave clicks out, or give the embedding admission={"by": "score"} or eviction={"by": "score", ...}'
        raise ConfigError("clicks are given to an embedding whose rows live without them", at=at, fix=fix)
    if given is None and learns and num_rows == 2:
        fix = "call it as embedding(ids, clicks=labels); set click equal to nonclick to count shows only"
        raise ConfigError("its rows live by shows and clicks, and no clicks are given", at=at, fix=fix)
