"""fleet's workers under joblib, and so under scikit-learn's ``n_jobs``::

    import joblib
    from fleet.fanout import joblib_backend
    joblib_backend.register()
    with joblib.parallel_config("fleet"):
        GridSearchCV(model, grid, n_jobs=-1).fit(X, y)
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import joblib
from joblib.parallel import ParallelBackendBase

from fleet.fanout import machine
from fleet.fanout.executor import Executor


class FleetBackend(ParallelBackendBase):  # type: ignore[misc]
    """One pool for each ``Parallel``. A worker that dies costs the batch it ran, which is repeated, not the results."""

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    uses_threads = supports_sharedmem = False

    def __init__(self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **options: Any) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._options = options  # of fleet.spread: joblib.parallel_config("fleet", retries=2)
        self._pool: Executor | None = None
        self._num_workers = 1

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return the workers that ``n_jobs`` comes to: -1 is every usable core, -2 all but one."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(1, machine.usable_cpus() + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None, **_: Any) -> int:
        """Start the pool; what joblib says about memory maps is its own affair: large arrays go through shared memory."""
        self.parallel = parallel
        self._num_workers = self.effective_n_jobs(n_jobs)
        self._start()
        return self._num_workers

    def _start(self) -> None:
        threads = self.inner_max_num_threads or 1
        self._pool = Executor(**{"workers": self._num_workers, "cpus": threads, "seed": None, **self._options})

    def submit(self, func: Callable[[], Any], callback: Callable[[Future[Any]], None] | None = None) -> Future[Any]:
        """Run one of joblib's batches."""
        assert self._pool is not None
        future = self._pool.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # joblib before 1.5

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return a batch's results, or raise what it raised."""
        return out.result()

    def terminate(self) -> None:
        """Let the workers go."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End what runs: a batch has failed, and joblib wants no more results."""
        if self._pool is not None:
            self._pool.kill()
            self._pool = None
        if ensure_ready:
            self._start()


def register() -> None:
    """Let joblib know the name: ``joblib.parallel_config("fleet")``, with options of `fleet.spread` if wanted."""
    joblib.register_parallel_backend("fleet", FleetBackend)
