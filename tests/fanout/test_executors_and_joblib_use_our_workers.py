"""The Executor facade does what CPython's documentation says; joblib runs on it; a killed worker costs nobody else anything."""

from __future__ import annotations

import concurrent.futures as futures
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fleet.errors import ConfigError, MemberLost, TaskError
from fleet.fanout.executor import Executor

both = pytest.mark.parametrize("backend", ["local", "thread"])


@both
def test_submit_map_and_as_completed(backend: str) -> None:
    with Executor(backend=backend, workers=2) as pool:
        assert pool.submit(pow, 2, 5).result(30) == 32
        assert pool.submit(lambda *a, **k: (a, k), 1, b=2).result(30) == ((1,), {"b": 2})
        assert list(pool.map(lambda x, y: x * y, range(5), range(5))) == [0, 1, 4, 9, 16]
        many = [pool.submit(lambda x=x: x) for x in range(30)]
        assert sorted(f.result() for f in futures.as_completed(many, 30)) == list(range(30))
        failed = pool.submit(int, "no")
        assert isinstance(failed.exception(30), ValueError)
        with pytest.raises(ValueError):
            list(pool.map(int, ["1", "x"]))
        seen: list[Any] = []
        pool.submit(str, 1).add_done_callback(lambda f: seen.append(f.result()))
    assert seen == ["1"]
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(str, 1)


@both
def test_futures_that_have_not_begun_can_be_cancelled(backend: str) -> None:
    pool = Executor(backend=backend, workers=1)
    first = pool.submit(time.sleep, 0.5)
    while not first.running():
        time.sleep(0.01)
    later = [pool.submit(str, x) for x in range(20)]
    assert later[-1].cancel() and later[-1].cancelled()
    pool.shutdown(cancel_futures=True)
    assert first.result() is None and later[-2].cancelled()


def test_waiting_ends_with_a_timeout_and_idle_pools_with_their_shutdown() -> None:
    with Executor(workers=1) as pool:
        slow = pool.submit(time.sleep, 1)
        with pytest.raises(futures.TimeoutError):
            slow.result(0.05)
        done, waiting = futures.wait([slow, pool.submit(str, 1)], timeout=30)
        assert len(done) == 2 and not waiting
    assert [t for t in threading.enumerate() if t.name == "fleet-executor"] == []


def test_a_killed_worker_costs_one_call(tmp_path: Path) -> None:
    def call(x: int) -> int:
        if x == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    with Executor(workers=2) as pool:
        found = [pool.submit(call, x) for x in range(20)]
        assert [f.result(60) for i, f in enumerate(found) if i != 3] == [x for x in range(20) if x != 3]
        assert isinstance(found[3].exception(60), MemberLost)


def test_kill_ends_what_runs() -> None:
    pool = Executor(workers=1)
    slow = pool.submit(time.sleep, 100)
    while not slow.running():
        time.sleep(0.01)
    begin = time.monotonic()
    pool.kill()
    assert isinstance(slow.exception(30), TaskError) and time.monotonic() - begin < 20
    with pytest.raises(ConfigError, match="cannot run inline"):
        Executor(backend="inline")
    with pytest.raises(ConfigError, match="5000 cpus"):
        Executor(cpus=5000)


def test_joblib() -> None:
    joblib = pytest.importorskip("joblib")
    from fleet.fanout import joblib_backend

    joblib_backend.register()

    def where(x: int) -> tuple[int, int]:
        return x * x, os.getpid()

    with joblib.parallel_config("fleet", n_jobs=2):
        found = joblib.Parallel()(joblib.delayed(where)(x) for x in range(10))
        assert [x for x, _ in found] == [x * x for x in range(10)] and os.getpid() not in {pid for _, pid in found}
        with pytest.raises(ZeroDivisionError):
            joblib.Parallel()(joblib.delayed(lambda x: 1 // x)(x) for x in [1, 0, 1])
        stream = joblib.Parallel(return_as="generator")(joblib.delayed(abs)(-x) for x in range(5))
        assert list(stream) == [0, 1, 2, 3, 4]
        assert joblib.Parallel(n_jobs=1)(joblib.delayed(abs)(-x) for x in range(2)) == [0, 1]
    with joblib.parallel_config("fleet", lost_retries=0), pytest.raises(MemberLost):
        joblib.Parallel(n_jobs=2)(joblib.delayed(os._exit)(3) for _ in range(1))
