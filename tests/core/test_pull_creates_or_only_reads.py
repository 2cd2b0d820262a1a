"""``create=True`` makes missing rows and counts them; ``create=False`` makes none."""

from __future__ import annotations

import numpy as np
from core_oracle import core, id_of_hash, pulled, random_ids, table


def test_counts_created_rows_once() -> None:
    rows, ids = table(), random_ids(5000)
    out = np.empty((5000, 4), np.float32)
    assert rows.pull(ids, out, False) == 0 and rows.size == 0
    assert rows.pull(ids, out, True) == 5000 and rows.size == 5000
    assert rows.pull(ids, out, True) == 0 and rows.size == 5000
    assert sorted(rows.keys().tolist()) == sorted(ids.tolist())


def test_repeated_ids_in_one_call() -> None:
    rows = table()
    ids = np.tile(random_ids(50), 40)
    out = np.empty((len(ids), 4), np.float32)
    assert rows.pull(ids, out, True) == 50
    np.testing.assert_array_equal(out, np.tile(out[:50], (40, 1)))


def test_every_id_is_a_key() -> None:
    rows = table()
    ids = np.array([0, 1, 2**64 - 1, 2**64 - 2, 2**63, 11], np.uint64)  # 11 is the salt: its mixed bits are zero
    before = pulled(rows, ids)
    np.testing.assert_array_equal(pulled(rows, ids, create=True), before)
    assert rows.read(ids)[0].all()
    assert sorted(rows.keys().tolist()) == sorted(ids.tolist())


def test_no_ids() -> None:
    rows = table()
    assert rows.pull(np.empty(0, np.uint64), np.empty((0, 4), np.float32), True) == 0
    assert rows.push(np.empty(0, np.uint64), np.empty((0, 4), np.float32), 0.1, 1) == 0
    assert rows.keys().shape == (0,) and rows.read(np.empty(0, np.uint64))[1].shape == (0, 4)


def test_keys_of_one_bucket_with_one_tag() -> None:
    """4000 ids that differ only in the bits that neither bucket, stripe nor tag see: all look alike to the index."""
    salt = 11
    same = 3 << 50 | 0x1234_0000_0042
    ids = np.array([id_of_hash(high << 54 | odd << 48 | same, salt) for high in range(1000) for odd in range(4)], np.uint64)
    assert len(set(core.shard_of(ids, salt).tolist())) == 1000
    rows = table(salt=salt)
    present, absent = ids[:2000], ids[2000:]
    expected = pulled(rows, ids)
    np.testing.assert_array_equal(pulled(rows, present, create=True), expected[:2000])
    np.testing.assert_array_equal(pulled(rows, ids), expected)
    assert rows.read(present)[0].all() and not rows.read(absent)[0].any()
    mixed = np.stack([absent, present], axis=1).reshape(-1)
    out = np.empty((4000, 4), np.float32)
    assert rows.pull(mixed, out, True) == 2000
    rows.push(mixed, np.ones((4000, 4), np.float32), 1.0, 1)
    assert rows.size == 4000 and (rows.read(mixed)[2] == 1).all()


def test_large_calls_are_cut_in_blocks() -> None:
    rows, ids = table(2), random_ids(200_000)
    first = pulled(rows, ids, create=True)
    np.testing.assert_array_equal(pulled(table(2), ids), first)
    assert rows.size == 200_000
