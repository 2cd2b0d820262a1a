"""Judge what the counting job (count.py) left: nothing counts twice; what is missing was lost by who was started again alone."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import job
from kill_harness import Run

from fleet import DistributedStrategy
from fleet.parameter_server import native
from fleet.parameter_server.spec import NUM_SHARDS

EPOCH_STEPS = 64
SAMPLES = EPOCH_STEPS, 2, 2  # a global batch of 4 is cut in the order of the ranks: step, trainer, sample
IN_HAND = 2  # pushes of a trainer that die with it: the one in hand, and the one under way


def missing(directory: Path, epochs: int) -> Any:
    """Return how often each sample is missing in its row at the end, ``int[step of an epoch, trainer, sample]``."""
    return _missing(np.load(directory / "ckpt.samples.npy"), epochs)


def checkpoints_hold_their_steps(run: Run, directory: Path) -> None:
    """Verify every checkpoint: it holds the steps of its name, each once, and but for what was lost, all of them."""
    for path in job.checkpoints(directory):
        step = int(path.name[-8:])
        visits = np.repeat([(step - at + EPOCH_STEPS - 1) // EPOCH_STEPS for at in range(EPOCH_STEPS)], 4)
        lacks = _missing(samples_of(path), visits)
        assert not lacks.any() or started_alone(run), (path.name, lacks)


def started_alone(run: Run) -> list[str]:
    """Return the processes that were started again without the others, in order."""
    return re.findall(r"fleet: (?:server|trainer) \d: .* restart \d of \d: (\w+ \d) alone started again", run.err)


def what_is_missing_was_lost(run: Run, directory: Path, block: dict[str, Any], epochs: int) -> None:
    """Judge a job that came to its end: its count, and to the sample what is missing and whose it was."""
    steps = epochs * EPOCH_STEPS
    alone, found, lacks = started_alone(run), job.counted(run), missing(directory, epochs)
    assert found["steps"] == steps, found
    full = DistributedStrategy(parameter_server=block).parameter_server
    merged = full["merge_steps"] or full["k_steps"] or 1  # steps that go out as one push
    of_server = _server_of_sample(directory)
    lost_by = {name: _said_lost(run, name) * merged for name in alone if "server" in name}
    on_lost_servers = np.isin(of_server, [int(name[-1]) for name in lost_by])
    in_hand = {int(name[-1]): IN_HAND * merged * alone.count(name) for name in alone if "trainer" in name}
    for trainer in (0, 1):
        theirs = lacks[:, trainer] * ~on_lost_servers[:, trainer]  # no server lost these
        assert theirs.max(axis=1).sum() <= in_hand.get(trainer, 0), (alone, lacks)
    for name, num_steps in lost_by.items():
        on_this = (lacks * (of_server == int(name[-1]))).max(axis=2).sum()  # steps of either trainer
        assert on_this <= num_steps + sum(in_hand.values()), (name, num_steps, lacks)
    most = (sum(lost_by.values()) + sum(in_hand.values())) / 2  # a trainer's part of a step is half of it
    assert steps - most - 0.001 <= found["rows"] <= steps + 0.001, (found, most)
    assert steps - most * (full["dense"] == "server") - 0.001 <= found["bias"] <= steps + 0.001, (found, most)


def samples_of(path: Path) -> Any:
    """Return what a checkpoint holds of each sample's row."""
    tables, found = job.tables_of(path).tables, np.empty((256, 1), np.float32)
    tables.pull(_samples(tables), np.arange(256, dtype=np.uint64), found, False)
    return -found[:, 0]


def _missing(samples: Any, visits: Any) -> Any:
    lacks = visits - 4.0 * samples.astype(np.float64)
    assert np.array_equal(lacks, np.rint(lacks)), samples  # nothing in part
    assert (lacks >= 0).all(), samples  # nothing twice
    return lacks.astype(int).reshape(SAMPLES)


def _said_lost(run: Run, server: str) -> int:
    """Return how many pushes a server said at the end that it lost.

    Struck when the trainers were all but done, its next life may end with the job before it has looked: then nobody needed it
    any more, nothing was said, and nothing may be missing.
    """
    history = run.err.rpartition("fleet: started again:")[2]
    said = re.findall(rf"{server} was started again and .* lost: (?:nothing|(?:at least )?(\d+) steps )", history)
    return sum(int(number or 0) for number in said)


def _server_of_sample(directory: Path) -> Any:
    tables = job.tables_of(job.checkpoints(directory)[-1]).tables
    shards = native.load().shard_of(np.arange(256, dtype=np.uint64), tables.specs[_samples(tables)].salt)
    return (shards.astype(int) * 2 // NUM_SHARDS).reshape(SAMPLES)


def _samples(tables: Any) -> int:
    (number,) = (number for number, spec in enumerate(tables.specs) if "samples" in spec.name)
    return int(number)
