"""Many threads pull while others push and evict: a place that is taken again never shows another id's row."""

from __future__ import annotations

import threading

import numpy as np
from core_oracle import core

NUM_IDS = 30_000


def test_no_pull_reads_another_ids_row() -> None:
    lives = [{"age_steps": 3}, {"capacity": 8000}, {"admission": 1, "admit_count": 2, "age_steps": 4}]
    for life in lives:
        rows = core.Table(dim=8, optimizer="sgd", hyper={}, initializer="uniform", init_args=(-1.0, 1.0), seed=1, salt=9, life=life)
        everything = np.arange(NUM_IDS, dtype=np.uint64)
        expected = np.empty((NUM_IDS, 8), np.float32)
        rows.pull(everything, expected, False)
        failures: list[str] = []
        over = threading.Event()

        def push(seed: int, rows=rows, failures=failures) -> None:
            rng = np.random.default_rng(seed)
            try:
                for step in range(1, 120):
                    ids = np.unique(rng.integers(0, NUM_IDS, 3000)).astype(np.uint64)
                    rows.push(ids, np.ones((len(ids), 8), np.float32), 0.0, step)  # a rate of 0: rows stay at their initial value
            except Exception as error:  # noqa: BLE001 - shown by the assertion below
                failures.append(repr(error))

        def pull(seed: int, create: bool, rows=rows, failures=failures, over=over, expected=expected) -> None:
            rng = np.random.default_rng(seed)
            out = np.empty((2000, 8), np.float32)
            while not over.is_set():
                ids = rng.integers(0, NUM_IDS, 2000).astype(np.uint64)
                rows.pull(ids, out, create)
                if out.tobytes() != expected[ids.astype(np.int64)].tobytes():
                    failures.append(f"a wrong row, create={create}")
                    return

        pullers = [threading.Thread(target=pull, args=(10 + i, bool(i % 2))) for i in range(3)]
        pushers = [threading.Thread(target=push, args=(i,)) for i in range(2)]
        for thread in [*pullers, *pushers]:
            thread.start()
        for thread in pushers:
            thread.join(60)
        over.set()
        for thread in pullers:
            thread.join(60)
        assert not failures, failures
        keys = rows.keys()
        assert len(keys) == len(set(keys.tolist())) == rows.size
        assert rows.life_counts()["evicted"] > 1000
