"""Pulls, pushes and sizes from many threads: sums are exact, rows are whole, nothing waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from core_oracle import core, random_ids, table

pytestmark = pytest.mark.timeout(60)


def run(*work: Callable[[], None]) -> None:
    with ThreadPoolExecutor(len(work)) as pool:
        for future in [pool.submit(one) for one in work]:
            future.result()


@pytest.mark.parametrize("stripes", [1, 16])
def test_no_push_is_lost(stripes: int) -> None:
    rows = table(8, "sgd", initializer="constant", init_args=(0.0, 0.0), stripes=stripes)
    ids, grads = random_ids(3000), np.full((3000, 8), -1.0, np.float32)

    def push(seed: int) -> Callable[[], None]:
        def work() -> None:
            rng = np.random.default_rng(seed)
            for _ in range(20):
                assert rows.push(ids[rng.permutation(3000)], grads, 1.0, 1) == 0

        return work

    def pull() -> None:
        out = np.empty((3000, 8), np.float32)
        for _ in range(40):
            rows.pull(ids, out, False)
            assert (out == out[:, :1]).all()  # a row is read whole
            assert out.min() >= 0 and out.max() <= 80 and rows.size <= 3000

    run(push(1), push(2), push(3), push(4), pull, pull)
    assert rows.size == 3000 and (rows.read(ids)[1] == 80).all()


def test_rows_are_created_once() -> None:
    rows, ids = table(4), random_ids(20_000)
    created = []

    def work() -> None:
        created.append(rows.pull(ids, np.empty((20_000, 4), np.float32), True))

    run(*[work] * 6)
    assert sum(created) == rows.size == 20_000


def test_flush_denormals_is_of_one_thread() -> None:
    tiny = np.full(4, 1e-40, np.float32)
    seen = []

    def flushed() -> None:
        assert core.flush_denormals()
        seen.append((tiny * np.float32(0.5)).max())

    run(flushed)
    assert seen == [0.0] and (tiny * np.float32(0.5)).max() > 0
