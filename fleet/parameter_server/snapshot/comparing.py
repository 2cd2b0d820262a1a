"""``diff``: how the rows of two snapshots differ, table by table, by keys and bytes.

Bytes are compared by a fingerprint of 128 bits, so that one pass over the files of each is enough.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fleet.parameter_server.freeze import hash_of
from fleet.parameter_server.snapshot import manifest as manifests
from fleet.parameter_server.snapshot.manifest import Link
from fleet.parameter_server.snapshot.places import newest_in
from fleet.parameter_server.snapshot.reading import Tensors, rows_of, spec_of, waiting_in

U64 = NDArray[np.uint64]
LANES = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)  # beginnings of the two halves of a fingerprint: any two numbers


class Difference(NamedTuple):
    """Counts of one table's rows."""

    table: str
    only_a: int
    only_b: int
    changed: int
    equal: int
    note: str  # in what the tables themselves differ, or the ids that wait for a row; or ""


def differences(core: Any, a: str, b: str) -> list[Difference]:
    """Compare what two snapshots load to, row state and row life included.

    Memory: a file of rows, and 24 bytes for each row of one server's part of a table.

    Raises:
        SnapshotError: one is missing, damaged or incomplete.
    """
    mine, theirs = manifests.chain(newest_in(a)), manifests.chain(newest_in(b))
    names = sorted({*mine[0].manifest["tables"], *theirs[0].manifest["tables"]})
    return [_difference(core, mine, theirs, name) for name in names]


def _difference(core: Any, a: list[Link], b: list[Link], table: str) -> Difference:
    has_a, has_b = (table in chain[0].manifest["tables"] for chain in (a, b))
    if not (has_a and has_b):
        only = sum(len(rows["keys"]) for low, high in _ranges((a if has_a else b)[0], table)
                   for rows in rows_of(core, a if has_a else b, table, low, high))  # fmt: skip
        return Difference(table, only if has_a else 0, only if has_b else 0, 0, 0, f"only in {'A' if has_a else 'B'}")
    old, new = spec_of(a[0], table), spec_of(b[0], table)
    only_a = only_b = changed = equal = 0
    for low, high in _ranges(a[0], table):
        keys, prints = _fingerprints(core, b, table, low, high)
        met = 0
        for rows in rows_of(core, a, table, low, high):
            at = np.searchsorted(keys, rows["keys"])
            both = at < len(keys)
            both[both] = keys[at[both]] == rows["keys"][both]
            same = (prints[at[both]] == _fingerprint(rows)[both]).all(axis=1)
            met += int(both.sum())
            only_a += int((~both).sum())
            equal += int(same.sum())
            changed += int((~same).sum())
        only_b += len(keys) - met
    notes = [old.differs(new)] if old != new else []
    waiting_a, waiting_b = waiting_in(core, a[0], table), waiting_in(core, b[0], table)
    if not all(np.array_equal(waiting_a.get(name, ()), waiting_b.get(name, ())) for name in {*waiting_a, *waiting_b}):
        notes.append(f"{_count(waiting_a)} ids wait in A, {_count(waiting_b)} in B, not all with the same counts")
    return Difference(table, only_a, only_b, changed, equal, "; ".join(notes))


def _count(waiting: Tensors) -> int:
    return len(waiting["hashes"]) if waiting else 0


def _ranges(link: Link, table: str) -> list[tuple[int, int]]:
    return [(part["shards"][0], part["shards"][1]) for part in link.manifest["tables"][table]["parts"]]


def _fingerprints(core: Any, chain: list[Link], table: str, low: int, high: int) -> tuple[U64, U64]:
    """Return sorted keys and, in their order, the fingerprints ``uint64[n, 2]`` of their rows."""
    found = [(rows["keys"], _fingerprint(rows)) for rows in rows_of(core, chain, table, low, high)]
    if not found:
        return np.zeros(0, np.uint64), np.zeros((0, 2), np.uint64)
    keys, prints = np.concatenate([k for k, _ in found]), np.concatenate([p for _, p in found])
    order = np.argsort(keys)
    return keys[order], prints[order]


def _fingerprint(rows: Tensors) -> U64:
    """Return ``uint64[n, 2]``: of each row all bytes but its key's."""
    num_rows = len(rows["keys"])
    columns = [np.ascontiguousarray(rows[name]).view(np.uint8).reshape(num_rows, -1) for name in sorted(rows) if name != "keys"]
    columns.append(np.zeros((num_rows, -sum(column.shape[1] for column in columns) % 8), np.uint8))
    words = np.ascontiguousarray(np.concatenate(columns, axis=1)).view(np.uint64)
    lanes = []
    for begin in LANES:
        lane = np.full(num_rows, begin, np.uint64)
        for i in range(words.shape[1]):
            lane = hash_of(lane ^ words[:, i], i)  # one to one: rows that differ in one word never meet
        lanes.append(lane)
    return np.stack(lanes, axis=1)
