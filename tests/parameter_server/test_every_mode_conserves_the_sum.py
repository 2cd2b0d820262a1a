"""In every mode the rows end at their initial values minus all gradients ever pushed, whatever the lines do meanwhile.

SGD with rate 1 and integer gradients: float32 adds them without rounding in any order, so that the sums compare to the bit.
The lines delay, cut, swallow and deliver twice and out of order. With 16 bits on the wire geo's differences are rounded; what that
takes away goes with later ones, and is exact in integers too.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import pytest
from frames import Peer
from proxy import Proxy, Storm
from servers import SECRET, Servers, spec
from sessions import close, session, step

NUM_KEYS, DIM, TRAINERS = 200, 3, 2
MODES: dict[str, dict[str, Any]] = {
    "sync": {"consistency": "sync"},
    "half_async": {"consistency": "half_async", "merge_steps": 3},
    "async": {"consistency": "async"},
    "bounded": {"consistency": "bounded", "staleness": 2},
    "geo": {"consistency": "geo", "k_steps": 3},
    "geo, bfloat16": {"consistency": "geo", "k_steps": 3, "wire": "bfloat16"},
    "geo, float16": {"consistency": "geo", "k_steps": 3, "wire": "float16"},
}
MANY_BITS = 1021  # times a gradient of 16-bit modes: no 16 bits hold its sums


def _train(this: Any, rank: int, steps: int, mode: str, total: np.ndarray, guard: threading.Lock) -> None:
    table = this.open(spec("sum", DIM, init_args=(0.0, 0.0)))
    rng = np.random.default_rng(rank)
    batches = [rng.integers(0, NUM_KEYS, 40).astype(np.uint64) for _ in range(steps)]
    for number, ids in enumerate(batches):
        for coming in batches[: 2] if number == 0 else batches[number + 1 : number + 2]:  # the loader is one batch ahead
            this.announce({"sum": coming}, True)
        values = TRAINERS * rng.integers(-4, 5, (40, DIM)).astype(np.float32) * (MANY_BITS if "16" in mode else 1)
        step(this, table, ids, values)
        with guard:
            np.add.at(total, ids.astype(np.int64), values / (TRAINERS if "geo" in mode else 1))  # the mean of what they did


def conserve(mode: str, prefetch: int, steps: int, share: float, num_servers: int = 2) -> int:
    """Train through a storm and compare; return how often it struck."""
    with ExitStack() as stack:
        servers = stack.enter_context(Servers(num_servers, world_size=TRAINERS))
        storms = []
        for rank in range(TRAINERS):
            for i, address in enumerate(servers.addresses):

                def again(whole: bytes, address: str = address, rank: int = rank) -> None:
                    with suppress(OSError, EOFError), Peer(address, SECRET, trainer=rank, incarnation=1) as peer:
                        peer.line.sendall(whole)
                        peer.receive()

                storms.append(Storm(10 * rank + i, share, again))
        proxies = [stack.enter_context(Proxy(servers.addresses[i % num_servers], s)).address for i, s in enumerate(storms)]
        total, guard, errors = np.zeros((NUM_KEYS, DIM), np.float32), threading.Lock(), []
        sessions = [session(servers, r, TRAINERS, tuple(proxies[r * num_servers : (r + 1) * num_servers]), prefetch=prefetch,
                            **MODES[mode]) for r in range(TRAINERS)]  # fmt: skip

        def train(rank: int) -> None:
            try:
                _train(sessions[rank], rank, steps, mode, total, guard)
                sessions[rank].flush()
            except BaseException as error:  # noqa: BLE001 - raised below
                errors.append(error)

        threads = [threading.Thread(target=train, args=(r,)) for r in range(TRAINERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert not errors, errors
        for storm in storms:
            for late in storm.threads:
                late.join()
        rows = sessions[0].read(sessions[0].client.tables["sum"], np.arange(NUM_KEYS, dtype=np.uint64))
        np.testing.assert_array_equal(rows, -total)
        assert np.abs(total).max() > 10
        for this in sessions:
            close(this)
        return sum(s.done for s in storms)


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("mode", MODES)
def test_the_sum_is_conserved_in_a_storm(mode: str, prefetch: int) -> None:
    assert conserve(mode, prefetch, steps=14, share=0.05) > 5


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_the_sum_is_conserved_in_a_long_storm(mode: str) -> None:
    assert conserve(mode, 1, steps=150, share=0.1, num_servers=3) > 200


def test_what_was_merged_is_pushed_at_the_end() -> None:
    """Seven steps in threes: the seventh goes when the session ends, without a flush."""
    with Servers(2, world_size=2) as servers:
        other = session(servers, 1, 2, consistency="half_async", merge_steps=3)
        this = session(servers, 0, 2, consistency="half_async", merge_steps=3)
        table = this.open(spec("sum", DIM, init_args=(0.0, 0.0)))
        keys = np.arange(50)
        for number in range(7):
            step(this, table, keys, np.ones((50, DIM)))
            assert this.client.step == (number + 1) // 3 * 3
        close(this)
        assert (other.read(other.open(spec("sum", DIM, init_args=(0.0, 0.0))), keys.astype(np.uint64)) == -7).all()
        close(other)
