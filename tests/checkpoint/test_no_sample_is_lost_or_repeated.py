"""Killed again and again, started again with other numbers of trainers: the steps that led to the result saw each sample once."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint.ledger_job import SAMPLES, STEPS
from kill_harness import Run, kill, pid_of, start, wait_for

JOB = str(Path(__file__).with_name("ledger_job.py"))


def begin(directory: Path, number: int, trainers: int, step_s: float = 0.01) -> Run:
    cwd = directory / f"start-{number}"
    cwd.mkdir()
    return start(["--nproc_per_node", str(trainers), JOB, str(directory), str(number)], cwd, {"STEP_S": str(step_s)})


def ledger(directory: Path, number: int, trainers: int) -> dict[int, list[int]]:
    """Return step -> the samples that went into it, of all trainers, in one start. A line without an end was killed."""
    steps: dict[int, list[int]] = {}
    for rank in range(trainers):
        path = directory / f"ledger-{number}-{rank}"
        for line in path.read_text().splitlines(keepends=True) if path.exists() else ():
            if line.endswith("\n"):
                step, *ids = map(int, line.split())
                steps.setdefault(step, []).extend(ids)
    return steps


def steps_written(directory: Path, number: int) -> int:
    path = directory / f"ledger-{number}-0"
    return path.read_text().count("\n") if path.exists() else 0


def weights(path: Path) -> dict[str, Any]:
    import paddle

    return {name: value.numpy() for name, value in paddle.load(str(path)).items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[int, list[int]]]:
    directory = tmp_path_factory.mktemp("undisturbed")
    run = begin(directory, 0, 1, 0.0)
    assert run.wait(60) == 0, run.err
    return weights(directory / "final-0.pdparams"), ledger(directory, 0, 1)


def check(directory: Path, num_kills: int, seed: int, undisturbed: tuple[dict[str, Any], dict[int, list[int]]]) -> None:
    rng = random.Random(seed)
    history: dict[int, list[int]] = {}
    for number in range(num_kills + 1):
        trainers = (2, 1, 3, 4)[number % 4]
        run = begin(directory, number, trainers)
        if number < num_kills:
            steps = rng.randint(2, 2 * STEPS // max(num_kills, 8) + 4)
            assert wait_for(lambda: steps_written(directory, number) >= steps or run.process.poll() is not None, 60), run.err  # noqa: B023
            if run.process.poll() is None:
                kill(run, rng.choice(["launcher", *(f"trainer {rank}" for rank in range(trainers))]), rng.uniform(0, 0.03))
            run.wait(60)
        else:
            assert run.wait(90) == 0, run.err
        found = ledger(directory, number, trainers)
        # What a later start does again takes the place of what it did not resume from.
        first = min(found, default=STEPS + 1)
        history = {step: ids for step, ids in history.items() if step < first} | found
        if (directory / f"final-{number}.pdparams").exists():
            break
    expected, order = undisturbed
    assert sorted(history) == list(range(1, STEPS + 1))
    assert sorted(sum(history.values(), [])) == list(range(SAMPLES))
    assert {step: sorted(ids) for step, ids in history.items()} == {step: sorted(ids) for step, ids in order.items()}
    for name, value in weights(directory / f"final-{number}.pdparams").items():
        # The trainers' parts of a batch are summed in another order, 76 times: float32's rounding, a few units of it a step.
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_killed_twice(tmp_path: Path, undisturbed: Any) -> None:
    check(tmp_path, 2, 1, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_twenty_times(tmp_path: Path, undisturbed: Any) -> None:
    check(tmp_path, 20, 7, undisturbed)


@pytest.mark.parametrize("whom", ["launcher", pytest.param("trainer 1", marks=pytest.mark.slow)])
def test_term_saves_and_the_next_start_goes_on(tmp_path: Path, undisturbed: Any, whom: str) -> None:
    run = begin(tmp_path, 0, 2, 0.05)
    assert wait_for(lambda: steps_written(tmp_path, 0) >= 7, 60), run.err
    assert kill(run, whom, 0.02, signal.SIGTERM)
    assert run.wait(30) == 75, run.err
    assert "preempted" in run.err and "preempted: saved at step" in run.log("trainer-0"), run.err
    done = ledger(tmp_path, 0, 2)
    saved = int(run.log("trainer-0").split("saved at step ")[1].split()[0])
    assert max(done) == saved < STEPS, "the step at whose end it saved is the last one that it took"
    again = begin(tmp_path, 1, 3, 0.0)
    assert again.wait(60) == 0, again.err
    rest = ledger(tmp_path, 1, 3)
    assert min(rest) == saved + 1 and sorted(sum((done | rest).values(), [])) == list(range(SAMPLES))
    assert pid_of(again, "trainer 0") is None
