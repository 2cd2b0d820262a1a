"""Every optimizer, in float32, bit for bit: repeated ids in order, missing rows from their initial value, any SIMD level."""

from __future__ import annotations

import numpy as np
import pytest
from core_oracle import LEVELS, OPTIMIZERS, apply, core, pulled, random_floats, table
from hypothesis import given, settings
from hypothesis import strategies as st

HYPER = {
    "sgd": {},
    "momentum": {"momentum": 0.7},
    "adagrad": {"epsilon": 1e-5, "initial_accumulator_value": 0.1},
    "rowwise_adagrad": {"epsilon": 1e-5, "initial_accumulator_value": 0.1},
    "decayed_adagrad": {"epsilon": 1e-5, "initial_accumulator_value": 0.1, "decay": 0.8},
    "rmsprop": {"rho": 0.9, "momentum": 0.5},
    "rmsprop_centered": {"rho": 0.9, "momentum": 0.5},
    "adam": {"beta1": 0.8, "beta2": 0.99, "epsilon": 1e-6},
    "adamw": {"beta1": 0.8, "beta2": 0.99, "epsilon": 1e-6, "weight_decay": 0.1},
    "ftrl": {"l1": 0.3, "l2": 0.1},
}
# Constants that lead another way through the code.
MORE = [
    ("momentum", {"nesterov": 1.0}),
    ("adam", {"dense": 1.0}),
    ("ftrl", {"beta": 0.5}),
    *[(optimizer, {"l2_decay": 0.05, "clip_min": -0.5, "clip_max": 0.75}) for optimizer in OPTIMIZERS],
    ("adagrad", {"clip_max": 0.25}),
]


Call = tuple[list[int], np.ndarray, float, int]  # ids, grads, lr, step


Rows = dict[int, tuple[np.ndarray, np.ndarray]]  # key -> weights, state


def reference(optimizer: str, dim: int, pushes: list[Call], hyper: dict[str, float]) -> Rows:
    known: Rows = {}
    fresh = table(dim, optimizer, hyper=hyper)
    for ids, grads, lr, step in pushes:
        for one, g in zip(ids, grads, strict=True):
            if one not in known:
                _, w, s = fresh.read(np.array([one], np.uint64))
                known[one] = (w[0], s[0])
            apply(optimizer, *known[one], g, lr, step, hyper)
    return known


def check_all_levels(optimizer: str, dim: int, hyper: dict[str, float]) -> None:
    rng = np.random.default_rng(dim)
    pushes = []
    for step in range(1, 6):
        ids = rng.integers(0, 40, 60).tolist()  # many repeats
        pushes.append((ids, random_floats(60, dim, seed=step), 0.1 / step, step))
    known = reference(optimizer, dim, pushes, hyper)
    keys = np.array(list(known), np.uint64)
    for level in LEVELS:
        core.set_simd(level)
        rows = table(dim, optimizer, hyper=hyper)
        for ids, grads, lr, step in pushes:
            assert rows.push(np.array(ids, np.uint64), grads, lr, step) == 0
        found, weights, state = rows.read(keys)
        assert found.all() and rows.size == len(keys)
        np.testing.assert_array_equal(weights, np.stack([w for w, _ in known.values()]))
        np.testing.assert_array_equal(state, np.stack([s for _, s in known.values()]))
        np.testing.assert_array_equal(pulled(rows, keys), weights)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dim", [1, 3, 8, 15, 16, 17, 32, 40])
def test_every_optimizer_dim_and_level(optimizer: str, dim: int) -> None:
    check_all_levels(optimizer, dim, HYPER[optimizer])


@pytest.mark.parametrize(("optimizer", "hyper"), MORE)
@pytest.mark.parametrize("dim", [5, 16])
def test_other_constants(optimizer: str, hyper: dict[str, float], dim: int) -> None:
    check_all_levels(optimizer, dim, hyper)


@settings(max_examples=80, deadline=None)
@given(
    optimizer=st.sampled_from(OPTIMIZERS),
    common=st.sampled_from([{}, {"l2_decay": 0.5}, {"clip_min": -0.1}]),
    dim=st.integers(1, 20),
    stripes=st.sampled_from([1, 2, 16]),
    calls=st.lists(st.lists(st.sampled_from([0, 1, 5, 11, 2**63, 2**64 - 1]), max_size=40), min_size=1, max_size=4),
)
def test_any_calls(optimizer: str, common: dict[str, float], dim: int, stripes: int, calls: list[list[int]]) -> None:
    hyper = {**HYPER[optimizer], **common}
    pushes = [(ids, random_floats(len(ids), dim, seed=i), 0.05, i + 1) for i, ids in enumerate(calls)]
    rows = table(dim, optimizer, hyper=hyper, stripes=stripes)
    for ids, grads, lr, step in pushes:
        rows.push(np.array(ids, np.uint64), grads, lr, step)
    known = reference(optimizer, dim, pushes, hyper)
    assert sorted(rows.keys().tolist()) == sorted(known)
    for key, (w, s) in known.items():
        _, weights, state = rows.read(np.array([key], np.uint64))
        np.testing.assert_array_equal(weights[0], w)
        np.testing.assert_array_equal(state[0], s)


def test_a_steady_gradient_leaves_centered_rmsprop_finite() -> None:
    """s - m^2 goes below 0 by rounding: without its floor at 0 the weights become NaN."""
    rows, ids = table(4, "rmsprop_centered", hyper={"rho": 0.9}), np.array([1], np.uint64)
    for step in range(1, 400):
        rows.push(ids, np.full((1, 4), 1234.567, np.float32), 1e-3, step)
    assert np.isfinite(rows.read(ids)[1]).all()


def test_ftrl_refuses_a_rate_of_zero() -> None:
    rows = table(4, "ftrl")
    with pytest.raises(ValueError, match="ftrl divides by lr: it must be above 0, got 0.0"):
        rows.push(np.array([1], np.uint64), np.ones((1, 4), np.float32), 0.0, 1)
    assert rows.size == 0


def test_assign_replaces_weights_and_resets_state() -> None:
    rows, ids = table(4, "adagrad", hyper={"initial_accumulator_value": 0.5}), np.array([3, 9], np.uint64)
    rows.push(ids[:1], np.ones((1, 4), np.float32), 0.1, 1)
    wanted = random_floats(2, 4)
    rows.assign(ids, wanted)
    found, weights, state = rows.read(ids)
    assert found.all() and (state == 0.5).all()
    np.testing.assert_array_equal(weights, wanted)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 12345, 70000 * 4 - 1])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float, place: int) -> None:
    rows = table(4, "adam")
    ids = np.arange(70000, dtype=np.uint64)
    rows.push(ids[:100], random_floats(100, 4), 0.1, 1)
    before = rows.read(ids)
    grads = random_floats(70000, 4)
    grads.reshape(-1)[place] = bad
    grads[35000, 0] = bad
    assert rows.push(ids, grads, 0.1, 2) == 2
    assert rows.size == 100
    for was, is_now in zip(before, rows.read(ids), strict=True):
        np.testing.assert_array_equal(was, is_now)
