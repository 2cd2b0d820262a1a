"""``sync`` ends where the same script in plain Paddle ends, on 1 or 2 servers with 1, 2 or 3 trainers, after 50 steps.

Per tensor, rows included: max abs difference over max abs value. What may differ is the order of float32 additions: a key's
gradient is summed within a trainer, weighted by the trainer's share of the batch, and summed over trainers, where Paddle sums
over the whole batch at once. That is about 1e-7 of a gradient's size a step. SGD adds it up: 50 steps of random sign stay
below 1e-6. Adagrad divides by the root of all squares so far, which keeps a relative error as it is: 1e-5 leaves a margin of
ten. Adam divides the mean by the root of the mean square: where a key's gradient is nearly zero, its relative error is large
and the step is as large as any other, so a few values move visibly: 1e-4. It never compounds, because the means forget.
One trainer on one server does Paddle's sums in Paddle's order but for the repeats of a key within a batch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from parameter_server import ps_jobs
from servers import SECRET, Servers
from trainers import Trainers

TOLERANCE = {"sgd": 1e-5, "adagrad": 1e-5, "adagrad_from_0.1": 1e-5, "adam": 1e-4}


@pytest.fixture(scope="module")
def trainers() -> Iterator[Trainers]:
    """Two processes; a job of one trainer leaves the other idle."""
    with Trainers(2, init=False) as started:
        yield started


@pytest.fixture(scope="module")
def three() -> Iterator[Trainers]:
    """Three more: Paddle keeps the size of its first group for the life of a process."""
    with Trainers(3, init=False) as started:
        yield started


@pytest.fixture(scope="module")
def alone(trainers: Trainers) -> dict[str, dict[str, Any]]:
    return {name: trainers.run("parameter_server.ps_jobs:train_alone", name=name)[0] for name in TOLERANCE}


def together(trainers: Trainers, name: str, num_servers: int, world_size: int, **options: Any) -> list[dict[str, Any]]:
    with Servers(num_servers, world_size=world_size) as servers:
        found = trainers.run("parameter_server.ps_jobs:train", name=name, world_size=world_size, servers=servers.addresses,
                             secret=SECRET, **options)  # fmt: skip
    return found[:world_size]


def largest_difference(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    assert set(found) == set(expected)
    return {n: float(np.abs(found[n] - expected[n]).max() / np.abs(expected[n]).max()) for n in expected}


def check(trainers: Trainers, expected: dict[str, Any], name: str, num_servers: int, world_size: int) -> None:
    results = together(trainers, name, num_servers, world_size)
    for result in results[1:]:
        for tensor, value in result.items():
            assert value.tobytes() == results[0][tensor].tobytes(), f"trainers differ in {tensor}"
    differences = largest_difference(results[0], expected)
    print(f"{name}: {num_servers} servers x {world_size} trainers: {max(differences.values()):.1e}")
    assert max(differences.values()) < TOLERANCE[name], differences


@pytest.mark.parametrize("num_servers, world_size", [(1, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam"])
def test_one_and_two_trainers(trainers: Trainers, alone: dict[str, Any], name: str, num_servers: int, world_size: int) -> None:
    check(trainers, alone[name], name, num_servers, world_size)


@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam"])
def test_three_trainers_on_two_servers(three: Trainers, alone: dict[str, Any], name: str) -> None:
    check(three, alone[name], name, 2, 3)


def test_adagrad_that_begins_with_an_accumulator(trainers: Trainers, alone: dict[str, Any]) -> None:
    check(trainers, alone["adagrad_from_0.1"], "adagrad_from_0.1", 2, 2)


def test_the_data_would_show_a_difference(alone: dict[str, Any]) -> None:
    """The tensors moved, far beyond the tolerance, and the optimizers end in different places."""
    moved = largest_difference(alone["sgd"], alone["adam"])
    assert min(moved.values()) > 0.01
    assert min(largest_difference(alone["adagrad"], alone["adagrad_from_0.1"]).values()) > 0.01


def test_announced_or_not_the_runs_are_the_same_bits(trainers: Trainers) -> None:
    """Announcing ids changes when rows are asked for, never which; a run repeats to the bit, on another number of servers too."""
    runs = [together(trainers, "adam", 2, 2, announce=a)[0] for a in (True, False)]
    runs.append(together(trainers, "adam", 1, 2, prefetch=0)[0])
    for tensor, value in runs[0].items():
        assert [r[tensor].tobytes() == value.tobytes() for r in runs] == [True] * 3, tensor


@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam"])
def test_dense_parameters_on_the_servers(trainers: Trainers, alone: dict[str, Any], name: str) -> None:
    """They too are merged in rank order: sync and bounded with a staleness of 0 end at the same bits, and where Paddle ends."""
    runs = [together(trainers, name, 2, 2, dense="server"), together(trainers, name, 2, 2, consistency="bounded", staleness=0)]
    for result in (*runs[0], *runs[1]):
        assert {n: v.tobytes() for n, v in result.items()} == {n: v.tobytes() for n, v in runs[0][0].items()}
    assert max(largest_difference(runs[0][0], alone[name]).values()) < TOLERANCE[name]


@pytest.mark.parametrize("block", [{"consistency": "half_async"}, {"consistency": "geo", "k_steps": 3},
                                   {"consistency": "bounded", "staleness": 1},
                                   {"consistency": "async", "dense": "server"}], ids=lambda b: b["consistency"])  # fmt: skip
def test_two_trainers_on_two_servers_learn_in_every_mode(trainers: Trainers, alone: dict[str, Any], block: dict[str, Any]) -> None:
    """Steps that overtake each other end elsewhere, but near: the squared error falls as far as alone, within a tenth."""
    errors = [ps_jobs.error_of(result) for result in together(trainers, "sgd", 2, 2, **block)]
    fresh = {n: p.numpy() for n, p in ps_jobs.Net(sparse=False).named_parameters()}
    start, reached = ps_jobs.error_of(fresh), ps_jobs.error_of(alone["sgd"])
    assert errors[0] == errors[1] and reached < 0.8 * start
    assert abs(errors[0] - reached) < 0.1 * (start - reached)


@pytest.mark.parametrize("consistency", ["half_async", "async", "bounded", "geo"])
def test_one_trainer_without_prefetch_is_exact_in_every_mode(trainers: Trainers, alone: dict[str, Any], consistency: str) -> None:
    result = together(trainers, "adam", 2, 1, consistency=consistency, prefetch=0)[0]
    assert max(largest_difference(result, alone["adam"]).values()) < TOLERANCE["adam"]
