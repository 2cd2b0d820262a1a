"""DataLoader workers are forked: they must not touch the reducer's thread or the channel."""

from __future__ import annotations

import equal
from trainers import Trainers


def test_parent_and_child_go_on(pair: Trainers) -> None:
    results = pair.run("collective.jobs:fork_with_a_reducer")
    assert [r["status"] for r in results] == [0, 0]
    equal.bitwise([r["got"] for r in results])
