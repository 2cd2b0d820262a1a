"""Each strategy, and each pair of them: on 1, 2 and 4 trainers what N virtual trainers in one process make of it.

The pairs are those of the registry: a strategy that is declared is walked, and one without a definition fails here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from collective import definition, strategies_recorded
from trainers import Trainers

from fleet import DistributedStrategy
from fleet.errors import StrategyConflict
from fleet.strategy import kinds

# What each is tried with. Those that change nothing at their defaults need settings that do.
SETTINGS: dict[str, dict[str, Any]] = {
    "gradient_merge": {"k_steps": 2},
    "localsgd": {"k_steps": 2},
    "clip": {"norm": 0.05},
    "lars": {"lars_coeff": 0.1},
    "post_localsgd": {"k_steps": 2, "begin_step": 2},
    "buckets": {"first_mb": 0.001, "mb": 0.001},
    "dgc": {"sparsity": [0.5, 0.8], "rampup_begin_step": 1, "rampup_step": 2, "min_size": 10, "local_clip": 0.3},
    "adaptive_localsgd": {"init_k_steps": 3},
    "onebit": {"freeze_steps": 2},
    "ema": {"decay": 0.9},
    "lr_scaling": {"rule": "sqrt", "warmup_steps": 3},
}
# float32 sums in another order, 6 steps. Under a codec a value that lies between two of its steps may go either way: 16 bits have
# steps of 2**-11 and 2**-8 of a gradient, and one value of many goes the other way.
EXACT, ROUNDED = 2e-5, 1e-3
REST_ALONE = {"sync_batch_norm", *definition.CODECS, *definition.LOCAL, "lr_scaling"}


def settings(*names: str) -> dict[str, Any]:
    return {name: SETTINGS.get(name, {}) for name in names}


def error(got: dict[str, Any], expected: dict[str, Any]) -> float:
    """Return the largest difference, in parts of the largest value of its parameter."""
    return max(float(np.abs(got[k] - v).max() / max(np.abs(v).max(), 1e-3)) for k, v in expected.items())


def check(results: list[dict[str, Any]], strategy: dict[str, Any]) -> None:
    expected = definition.train(strategy, len(results))
    tolerance = ROUNDED if set(strategy) & set(definition.CODECS) else EXACT
    for rank, got in enumerate(results):
        assert error(got, expected[rank]) < tolerance, f"{strategy} on trainer {rank} of {len(results)}"


@pytest.fixture(scope="module")
def quartet() -> Iterator[Trainers]:
    with Trainers(4) as trainers:
        yield trainers


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_alone(world_size: int, request: pytest.FixtureRequest) -> None:
    wanted = [settings(), *(settings(name) for name in kinds())]
    if world_size == 1:
        with Trainers(1) as single:
            results = single.run("collective.strategy_jobs:train", strategies=wanted)
    else:
        trainers = request.getfixturevalue({2: "pair", 4: "quartet"}[world_size])
        results = trainers.run("collective.strategy_jobs:train", strategies=wanted)
    for k, strategy in enumerate(wanted):
        check([found[k] for found in results], strategy)
    for k, strategy in enumerate(wanted[1:], 1):
        idle = {*definition.NOTHING, "ema", *(REST_ALONE if world_size == 1 else ())}
        if set(strategy) - idle:
            same = all(np.array_equal(results[0][k][name], results[0][0][name]) for name in results[0][0])
            assert not same, f"{strategy} changed nothing"


def refusal(strategy: dict[str, Any]) -> str:
    try:
        DistributedStrategy(**strategy)
    except StrategyConflict as conflict:
        return str(conflict)
    return ""


def test_every_pair(pair: Trainers) -> None:
    composed, num_pairs = walk(pair)
    print(f"{len(composed)} of {num_pairs} pairs compose")
    assert len(composed) >= 0.7 * num_pairs
    recorded = strategies_recorded.read()
    assert {(a, b) for a in recorded for b in recorded[a]["composes_with"]} == {*composed, *((b, a) for a, b in composed)}


def walk(pair: Trainers) -> tuple[list[tuple[str, str]], int]:
    """Train under every pair that is not refused; return those that are their definition, and how many pairs there are."""
    pairs = list(itertools.combinations(kinds(), 2))
    refused = {names: refusal(settings(*names)) for names in pairs}
    assert all("exclude each other: " in why for why in refused.values() if why)
    composed = [names for names in pairs if not refused[names]]
    wanted = [settings(*names) for names in composed]
    results = pair.run("collective.strategy_jobs:train", strategies=wanted, timeout_s=300)
    for k, strategy in enumerate(wanted):
        check([found[k] for found in results], strategy)
    return composed, len(pairs)


def test_the_record_is_of_the_strategies_that_are_declared() -> None:
    recorded = strategies_recorded.read()
    assert list(recorded) == list(kinds()), "run `make strategies`"
    for name, entry in strategies_recorded.declared().items():
        assert {key: recorded[name][key] for key in entry} == entry, "run `make strategies`"
        assert sorted([*entry["excludes"], *recorded[name]["composes_with"]]) == sorted(set(kinds()) - {name})
        for other, why in entry["excludes"].items():
            assert why in refusal(settings(name, other))


def test_the_bytes_that_are_recorded_are_sent(pair: Trainers) -> None:
    assert strategies_recorded.bytes_sent(pair) == {n: e["bytes_a_float"] for n, e in strategies_recorded.read().items()}
