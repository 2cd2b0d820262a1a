"""Row life once more in Python: a dict of rows and a dict of waiting ids, what the core must agree with step by step.

The core's rules are sampled nowhere here but in capacity by ``evict_worst``; tests of that compare invariants instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from core_oracle import core, mix64

MAX_AGE = 16384
PARTS = 2000


def table(life: dict[str, float], dim: int = 2, seed: int = 3, salt: int = 11) -> Any:
    """Return a table of SGD rows that begin at 1.0 and fall by their gradients."""
    return core.Table(
        dim=dim, optimizer="sgd", hyper={}, initializer="constant", init_args=(1.0, 0.0), seed=seed, salt=salt, life=life
    )


def f32(x: float) -> float:
    return float(np.float32(x))


class Oracle:
    """A table of ``dim`` 1 by the words of docs/row_life.md."""

    def __init__(self, life: dict[str, float], seed: int = 3, salt: int = 11) -> None:
        self.life, self.seed, self.salt = life, seed, salt
        self.step = 0
        self.weight: dict[int, float] = {}
        self.seen: dict[int, int] = {}
        self.score: dict[int, float] = {}
        self.waiting: dict[int, tuple[int, int]] = {}  # id -> (count, generation)
        age = int(life.get("age_steps", 0))
        self.unit = 1 if age <= MAX_AGE else -(-age // MAX_AGE)
        self.max_age = -(-age // self.unit) if age else MAX_AGE
        decay = life.get("decay", 1.0)
        self.per_tick = decay ** (self.unit / life.get("decay_steps", 1))

    def score_of(self, shows: int, clicks: int) -> float:
        clicks = min(shows, clicks)
        nonclick, click = (np.float32(self.life.get(name, 1.0)) for name in ("nonclick", "click"))
        return float(nonclick * np.float32(shows - clicks) + click * np.float32(clicks))

    def left(self, key: int, step: int) -> float:
        age = step // self.unit - self.seen[key]
        return f32(np.float32(self.score[key]) * np.float32(self.per_tick**age))

    def expired(self, key: int, step: int) -> bool:
        if not self.life.get("age_steps"):
            return False
        if step // self.unit - self.seen[key] > self.max_age:
            return True
        below = self.life.get("delete_below", 0)
        return bool(below) and self.left(key, step) < np.float32(below)

    def drop(self, key: int) -> None:
        for part in (self.weight, self.seen, self.score):
            del part[key]

    def admits(self, key: int, shows: int, clicks: int, step: int) -> bool:
        kind = int(self.life.get("admission", 0))
        if kind == 0:
            return True
        if kind == 2:
            stream = int(
                mix64(np.array([int(mix64(np.array([self.seed ^ 0x61646D6974], np.uint64))[0]) ^ self.salt], np.uint64))[0]
            )
            mixed = int(mix64(np.array([key ^ int(mix64(np.array([step], np.uint64))[0])], np.uint64))[0])
            bits = int(mix64(np.array([(stream + mixed) % 2**64], np.uint64))[0])
            return (bits >> 11) * 2.0**-53 >= (1.0 - self.life["admit_probability"]) ** shows
        needed, gained = int(self.life.get("admit_count", 1)), shows
        if kind == 3:
            needed = PARTS
            gained = int(np.floor(min(1.0, self.score_of(shows, clicks) / self.life["admit_score"]) * PARTS + 0.5))
        age = int(self.life.get("age_steps", 0))
        generation = step // age if age else 0
        count, before = self.waiting.get(key, (0, generation))
        if generation - before >= 2:
            count = 0
        count = min(count + gained, needed)
        if count == needed:
            self.waiting.pop(key, None)
            return True
        self.waiting[key] = (count, generation)
        return False

    def push(self, ids: list[int], shows: list[int], clicks: list[int], step: int) -> None:
        """Every gradient is 1/8 and the rate 1: exact in float32."""
        before = self.step
        for key, s, c in zip(ids, shows, clicks, strict=True):
            if key in self.weight and self.expired(key, before):
                self.drop(key)
            if key not in self.weight:
                if not self.admits(key, s, c, step):
                    continue
                self.weight[key], self.score[key], self.seen[key] = 1.0, 0.0, step // self.unit
            self.score[key] = f32(np.float32(self.left(key, step)) + np.float32(self.score_of(s, c)))
            self.seen[key] = step // self.unit
            self.weight[key] -= 0.125
        self.step = step
        age = int(self.life.get("age_steps", 0))
        if age:
            self.waiting = {k: v for k, v in self.waiting.items() if step // age - v[1] < 2}

    def read(self, key: int) -> float:
        if key in self.weight and not self.expired(key, self.step):
            return self.weight[key]
        return 0.0 if self.life.get("unseen_zero") else 1.0
