"""A small table takes little memory, a large one little more than its rows, and growing moves nothing."""

from __future__ import annotations

import numpy as np
from core_oracle import pulled, random_ids, table


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_one_hundred_rows() -> None:
    before = resident_bytes()
    tables = [table(16, "adam") for _ in range(20)]
    for rows in tables:
        pulled(rows, random_ids(100), create=True)
    assert all(rows.memory_bytes < 200_000 for rows in tables)
    assert (resident_bytes() - before) / len(tables) < 500_000


def test_rows_are_packed() -> None:
    for optimizer, state_dim in (("sgd", 0), ("adagrad", 17), ("rowwise_adagrad", 1), ("adam", 34), ("rmsprop_centered", 51)):
        rows = table(17, optimizer)
        assert rows.state_dim == state_dim and rows.row_bytes == 12 + 4 * (17 + state_dim)  # key, epoch, seen


def test_a_large_table_takes_little_more_than_its_rows() -> None:
    rows, ids = table(16, "rowwise_adagrad"), random_ids(1_000_000)
    expected = pulled(rows, ids, create=True)
    assert rows.size == len(ids)
    assert rows.memory_bytes < 1.45 * 1_000_000 * (64 + 4) + 16 * 2**21  # one huge page of slack a stripe
    np.testing.assert_array_equal(pulled(rows, ids), expected)


def test_rows_larger_than_a_page() -> None:
    rows, ids = table(5000, "adagrad", stripes=1), random_ids(700)  # 40 KB a row: several slabs
    expected = pulled(rows, ids)
    np.testing.assert_array_equal(pulled(rows, ids, create=True), expected)
    rows.push(ids, np.ones((700, 5000), np.float32), 0.5, 1)
    np.testing.assert_allclose(pulled(rows, ids), expected - 0.5, atol=1e-5)


def test_memory_goes_back() -> None:
    before = resident_bytes()
    for _ in range(5):
        rows = table(64, stripes=2)
        pulled(rows, random_ids(100_000), create=True)
        del rows
    assert resident_bytes() - before < 60_000_000
