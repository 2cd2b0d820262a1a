"""What a trainer tells the servers of its consistency, and what follows from it on the trainer's side."""

from __future__ import annotations

from typing import NamedTuple


class Mode(NamedTuple):
    """The consistency of a job, and what its servers do when they are full: the same on all trainers and servers."""

    name: str  # one of NAMES in this package
    staleness: int = 0  # bounded: steps by which the slowest trainer may trail the fastest
    when_full: str = "refuse"  # or evict: what a server does at its memory limit

    @property
    def in_order(self) -> bool:
        """Return whether a pull misses no push at all, so that it may only be sent behind the push before it."""
        return self.name == "sync" or (self.name == "bounded" and self.staleness == 0)

    @property
    def counts_steps(self) -> bool:
        """Return whether every server hears of every step, and a pull says how many steps its rows follow."""
        return self.name in ("sync", "bounded")
