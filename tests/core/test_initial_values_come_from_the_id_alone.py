"""A new row's values come from (seed, salt, id, column): the same on any server, in any order, with any number of stripes."""

from __future__ import annotations

import numpy as np
import pytest
from core_oracle import LEVELS, core, normal, pulled, random_ids, table, uniform

EDGES = np.array([0, 1, 2**32, 2**63, 2**64 - 2, 2**64 - 1], np.uint64)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dim", [1, 5, 8, 16, 33])
def test_uniform_equals_the_oracle_bit_for_bit(level: str, dim: int) -> None:
    core.set_simd(level)
    ids = np.concatenate([EDGES, random_ids(300)])
    rows = table(dim, initializer="uniform", init_args=(-0.25, 0.75), seed=3, salt=5)
    expected = uniform(ids, dim, 3, 5, -0.25, 0.75)
    np.testing.assert_array_equal(pulled(rows, ids), expected)
    np.testing.assert_array_equal(pulled(rows, ids, create=True), expected)
    np.testing.assert_array_equal(pulled(rows, ids), expected)
    assert expected.min() >= -0.25 and expected.max() <= 0.75


def test_normal_is_the_quantile_of_the_oracle() -> None:
    ids = random_ids(4000)
    got = pulled(table(6, initializer="normal", init_args=(0.5, 2.0)), ids)
    np.testing.assert_allclose(got, normal(ids, 6, 7, 11, 0.5, 2.0), rtol=2e-6, atol=2e-7)
    assert abs(got.mean() - 0.5) < 0.06 and abs(got.std() - 2.0) < 0.06


@pytest.mark.parametrize("level", LEVELS)
def test_normal_has_the_same_bits_at_every_level(level: str) -> None:
    ids = random_ids(500)
    rows = table(7, initializer="normal", init_args=(0.0, 0.1))
    before = pulled(rows, ids)
    core.set_simd(level)
    np.testing.assert_array_equal(pulled(rows, ids, create=True), before)


def test_constant() -> None:
    assert (pulled(table(3, initializer="constant", init_args=(0.125, 0.0)), EDGES) == 0.125).all()


def test_stripes_and_order_do_not_matter_but_seed_and_salt_do() -> None:
    ids = random_ids(1000)
    first = pulled(table(stripes=16), ids, create=True)
    np.testing.assert_array_equal(pulled(table(stripes=1), ids[::-1].copy(), create=True)[::-1], first)
    assert not np.intersect1d(first, pulled(table(seed=8), ids)).size > 100
    assert not np.intersect1d(first, pulled(table(salt=12), ids)).size > 100


def test_columns_and_neighbouring_ids_are_independent() -> None:
    values = pulled(table(16, initializer="uniform", init_args=(-1.0, 1.0)), np.arange(20000, dtype=np.uint64)).astype(np.float64)
    correlation = np.corrcoef(values.T) - np.eye(16)
    assert np.abs(correlation).max() < 0.03
    neighbours = (values[1:] * values[:-1]).mean(axis=0) * 3
    assert np.abs(neighbours).max() < 0.04
