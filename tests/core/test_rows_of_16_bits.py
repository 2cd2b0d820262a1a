"""Rows stored in 16 bits: float32 arithmetic, stochastic rounding from (key, step, column) alone, the same at every SIMD level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_oracle import F32, LEVELS, OPTIMIZERS, apply, core, load, mix64, pulled, random_floats, random_ids, save, table

BF16_MAX, F16_MAX = np.float32(3.3895314e38), np.float32(65504)
GOLDEN32 = np.uint32(0x9E3779B9)
DTYPES = [("bfloat16", "float32"), ("float16", "bfloat16"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")]


def nearest(values: F32, dtype: str) -> F32:
    if dtype == "float32":
        return values
    if dtype == "float16":
        return values.astype(np.float16).astype(np.float32)
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def randoms(seed: int, count: int) -> np.ndarray:
    x = np.uint32(seed) + (np.arange(count, dtype=np.uint32) + np.uint32(1)) * GOLDEN32
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def at_random(values: F32, dtype: str, seed: int) -> F32:
    if dtype == "float32":
        return values
    draw, sign = randoms(seed, len(values)), np.signbit(values)
    if dtype == "bfloat16":
        bits = np.minimum(np.abs(values), BF16_MAX).view(np.uint32)
        found = ((bits + (draw >> 16)) & np.uint32(0xFFFF0000)).view(np.float32)
    else:
        size = np.minimum(np.abs(values), F16_MAX)
        normal = ((size.view(np.uint32) + (draw >> 19)) & np.uint32(0xFFFFE000)).view(np.float32)
        share = (draw >> 16).astype(np.float32) * np.float32(2**-16)
        tiny = np.floor(size * np.float32(2**24) + share) * np.float32(2**-24)
        found = np.where(size < np.float32(2**-14), tiny, normal)
    return np.where(sign, -found, found).astype(np.float32)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("weights", "state"), DTYPES)
def test_pushes_equal_the_oracle(optimizer: str, weights: str, state: str) -> None:
    dim, salt, steps = 19, 11, 5
    ids = random_ids(30)
    fresh = table(dim, optimizer, weights=weights, state=state)
    _, w, s = fresh.read(ids)
    np.testing.assert_array_equal(w, nearest(table(dim, optimizer).read(ids)[1], weights))
    for step in range(1, steps):
        grads = random_floats(len(ids), dim, seed=step)
        noise = mix64(np.array([step], np.uint64) ^ mix64(np.array([salt], np.uint64)))
        seeds = mix64(ids + noise)
        for i in range(len(ids)):
            apply(optimizer, w[i], s[i], grads[i], 0.1, step, {})
            w[i] = at_random(w[i], weights, int(seeds[i]) & 0xFFFFFFFF)
            s[i] = at_random(s[i], state, int(seeds[i]) >> 32)
    for level in LEVELS:
        core.set_simd(level)
        rows = table(dim, optimizer, weights=weights, state=state)
        pulled(rows, ids[:7], create=True)
        for step in range(1, steps):
            assert rows.push(ids, random_floats(len(ids), dim, seed=step), 0.1, step) == 0
        found, got, got_state = rows.read(ids)
        assert found.all()
        np.testing.assert_array_equal(got, w)
        np.testing.assert_array_equal(got_state, s)
        np.testing.assert_array_equal(pulled(rows, ids), w)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("start", [1.0, 3e-6])
def test_rounding_is_unbiased(dtype: str, start: float) -> None:
    """Steps far below the last bit are lost by rounding to nearest; here the mean over many rows follows them."""
    n, dim, step_size = 2000, 8, start * 2**-14
    rows, ids = table(dim, "sgd", initializer="constant", init_args=(start, 0.0), weights=dtype), random_ids(n)
    begin = rows.read(ids)[1]
    for step in range(1, 65):
        rows.push(ids, np.full((n, dim), -step_size, np.float32), 1.0, step)
    moved = (rows.read(ids)[1].astype(np.float64) - begin).mean()
    spread = (rows.read(ids)[1].astype(np.float64) - begin).std() / np.sqrt(n * dim)
    assert spread > 0 and abs(moved - 64 * step_size) < 5 * spread


def test_conversions_equal_numpys() -> None:
    every = np.arange(65536, dtype=np.uint16)
    edges = np.float32([0, -0.0, np.inf, -np.inf, 65504, 65519.99, 65520, 2**-24, 2**-25, 2**-14, 6.1e-5, 3.4e38])
    floats = np.concatenate([random_floats(5000) * np.float32(10) ** np.arange(-10, 15).repeat(200), edges]).astype(np.float32)
    for level in LEVELS:
        core.set_simd(level)
        out = np.empty(65536, np.float32)
        core.widen(every, out, "float16")
        np.testing.assert_array_equal(out, every.view(np.float16).astype(np.float32))
        core.widen(every, out, "bfloat16")
        np.testing.assert_array_equal(out, (every.astype(np.uint32) << 16).view(np.float32))
        short = np.empty(len(floats), np.uint16)
        with np.errstate(over="ignore"):
            assert core.narrow(floats, short, "float16") == np.count_nonzero(~np.isfinite(floats.astype(np.float16)))
            np.testing.assert_array_equal(short, floats.astype(np.float16).view(np.uint16))
        core.narrow(floats, short, "bfloat16")
        np.testing.assert_array_equal(short, (nearest(floats, "bfloat16").view(np.uint32) >> 16).astype(np.uint16))
        nan = np.array([np.nan], np.float32)
        assert core.narrow(nan, short[:1], "float16") == core.narrow(nan, short[:1], "bfloat16") == 1


@pytest.mark.parametrize(("weights", "state"), DTYPES)
def test_snapshots_hold_them_as_they_are(tmp_path: Path, weights: str, state: str) -> None:
    rows, ids = table(7, "adam", weights=weights, state=state), random_ids(500)
    rows.push(ids, random_floats(500, 7), 0.1, 1)
    (saved,) = save(rows, tmp_path / "rows")
    size = {"float32": 4, "bfloat16": 2, "float16": 2}
    assert saved["bytes"] < 500 * (8 + 7 * size[weights] + 14 * size[state]) + 1024
    again = table(7, "adam", weights=weights, state=state, stripes=2)
    assert load(again, [saved]) == 500
    for was, now in zip(rows.read(ids), again.read(ids), strict=True):
        np.testing.assert_array_equal(was, now)
    with pytest.raises(ValueError, match=r"its tensor (weights|state) is|the file has"):
        other: Any = table(7, "adam", weights="float16" if weights != "float16" else "float32", state=state)
        load(other, [saved])


def test_memory_and_what_cannot_be() -> None:
    assert table(17, "adagrad", weights="bfloat16", state="bfloat16").row_bytes == 12 + 36 + 36
    assert table(16, "rowwise_adagrad", weights="float16").row_bytes == 12 + 32 + 4
    with pytest.raises(ValueError, match="weights must be one of float32, bfloat16, float16, got int8"):
        table(4, "sgd", weights="int8")
    with pytest.raises(ValueError, match="state must be one of float32, bfloat16, got float16"):
        table(4, "adam", state="float16")


def test_a_weight_that_is_too_large_for_float16_stays_finite() -> None:
    rows, ids = table(2, "sgd", weights="float16"), np.array([1], np.uint64)
    rows.push(ids, np.array([[-1e6, 1e6]], np.float32), 1.0, 1)
    np.testing.assert_array_equal(rows.read(ids)[1], [[65504, -65504]])
