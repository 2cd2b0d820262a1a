"""A `concurrent.futures.Executor` on fleet's workers: for code that takes an executor."""

from __future__ import annotations

import atexit
import concurrent.futures
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from fleet.errors import ConfigError, TaskError
from fleet.fanout.chain import MAP, Level, Stage
from fleet.fanout.flow import NOTHING
from fleet.fanout.results import Result
from fleet.fanout.spread import Spread, driver_of


class _Inlet:
    """Calls as they are submitted: an iterator that may have nothing at the moment."""

    def __init__(self) -> None:
        self.closed = False
        self.futures: dict[int, Future[Any]] = {}  # of calls that a worker has
        self._calls: deque[tuple[Future[Any], Any]] = deque()  # appended by any thread, taken by the driver's
        self._next = 0

    def add(self, future: Future[Any], call: Any) -> None:
        self._calls.append((future, call))

    def __iter__(self) -> _Inlet:
        return self

    def __next__(self) -> Any:
        while self._calls:
            future, call = self._calls.popleft()
            if future.set_running_or_notify_cancel():
                self.futures[self._next] = future
                self._next += 1
                return self._next - 1, call
        if self.closed:
            raise StopIteration
        return NOTHING

    def cancel(self) -> None:
        """Cancel every call that no worker has."""
        for future, _ in list(self._calls):
            future.cancel()


class Executor(concurrent.futures.Executor):
    """Run submitted calls on a pool of fleet's workers: ``with Executor(workers=4) as pool: pool.submit(f, x).result()``.

    A lost worker costs the call that it ran (repeated once by default), never the pool. Lambdas, closures and functions of
    notebooks work.

    Args:
        options: of `fleet.spread` (backend, workers, cpus, retries, timeout, run_dir...).

    Raises:
        ConfigError: as `fleet.spread`; the inline backend, which runs nothing while the caller does something else.
    """

    def __init__(self, **options: Any) -> None:
        if options.get("backend") == "inline":
            raise ConfigError("an executor cannot run inline", at="fleet Executor", fix='backend="local" or "thread"')
        self._inlet = _Inlet()
        level = Level((Stage(MAP, _apply),))
        self._driver = driver_of([Spread([], options, (level,))], [self._inlet])
        self._lock = threading.Lock()  # guards _down: no call is taken once it is set
        self._down = self._killed = False
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fleet-executor", daemon=True)  # joined by shutdown
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            raise self._failed
        atexit.register(self.shutdown)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand in a call; its `Future` can be cancelled until a worker has it.

        Raises:
            RuntimeError: the executor was shut down.
        """
        future: Future[Any] = Future()
        with self._lock:
            if self._down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._inlet.add(future, (fn, args, kwargs))
        self._driver.backend.wake()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with ``wait`` return once all have ended and the workers are gone."""
        with self._lock:
            self._down = self._inlet.closed = True
        if cancel_futures:
            self._inlet.cancel()
        if self._thread.is_alive():
            self._driver.backend.wake()
            if wait:
                self._thread.join()
        atexit.unregister(self.shutdown)

    def kill(self) -> None:
        """End every call at once; their futures fail with `TaskError`."""
        self._killed = True
        self._driver.cancel()
        self.shutdown(cancel_futures=True)

    def _run(self) -> None:
        error: BaseException = TaskError("the executor was killed", at="fleet Executor", fix="submit the call to another one")
        try:
            with self._driver:
                self._ready.set()
                for result in self._driver.results():
                    self._deliver(result)
        except BaseException as raised:  # noqa: BLE001  given to the futures, or raised by the constructor
            error = raised
            if not self._ready.is_set():
                self._failed = raised
        with self._lock:
            self._down = self._inlet.closed = True
        self._ready.set()
        self._inlet.cancel()
        for future in self._inlet.futures.values():
            future.set_exception(error)

    def _deliver(self, result: Result) -> None:
        future = self._inlet.futures.pop(result.path[0])
        if result.error is not None:
            future.set_exception(result.error)
            return
        try:
            future.set_result(result.value)
        except Exception as error:  # noqa: BLE001  a large value that cannot be read back
            future.set_exception(error)


def _apply(call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]) -> Any:
    function, args, kwargs = call
    return function(*args, **kwargs)
