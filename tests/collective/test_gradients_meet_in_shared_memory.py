"""On one host gradients are added up in shared memory: as right as through Gloo, and nothing is left of it."""

from __future__ import annotations

import os

from trainers import Trainers


def test_no_trainer_overwrites_what_another_reads(pair: Trainers) -> None:
    """Two trainers give the same gradient, so the mean is that gradient to the bit, whatever their speeds."""
    first, second = pair.run("collective.jobs:at_different_speeds", num_steps=40)
    assert first[0] == second[0] == "in shared memory"
    for _, plain, reduced in (first, second):
        for k, (alone, together) in enumerate(zip(plain, reduced, strict=True)):
            assert all(x.tobytes() == y.tobytes() for x, y in zip(alone, together, strict=True)), f"step {k}"


def test_no_room_means_gloo(pair: Trainers, tmp_path: object) -> None:
    shared = pair.run("collective.jobs:without_room", directory="/dev/shm")
    nowhere = pair.run("collective.jobs:without_room", directory=f"{tmp_path}/not/there")
    assert [way for way, _ in shared] == ["in shared memory"] * 2
    assert [way for way, _ in nowhere] == ["over gloo"] * 2
    for (_, one), (_, other) in zip(shared, nowhere, strict=True):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def test_no_file_is_left(pair: Trainers) -> None:
    before = {name for name in os.listdir("/dev/shm") if name.startswith("fleet-")}
    pair.run("collective.jobs:without_room", directory="/dev/shm")
    assert {name for name in os.listdir("/dev/shm") if name.startswith("fleet-")} <= before
