"""A run on a thread of its own: `spread(...).start()` returns at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fleet.errors import ConfigError, TaskError
from fleet.fanout.results import Result, Results

if TYPE_CHECKING:
    from fleet.fanout.spread import Spread


class Running:
    """A fan-out under way. Results are kept until they are asked for; `cancel` or leaving a ``with`` block ends it."""

    def __init__(self, spread: Spread) -> None:
        self._spread = spread
        self._driver = spread.driver()  # what is refused is refused here, not on the thread
        self._results = Results()
        self._error: BaseException | None = None
        self._cancelled = False
        self._changed = threading.Condition()  # guards _results, _error, _ended
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="fleet-spread", daemon=True)  # joined by wait and cancel
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._driver:
                for result in self._driver.results():
                    self._add([result])
                if self._cancelled:
                    self._add(self._driver.wind_down(self._spread.options.grace_s))
        except BaseException as error:  # noqa: BLE001  raised by wait, in the thread that asks
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _add(self, results: list[Result]) -> None:
        with self._changed:
            self._results.extend(results)
            self._changed.notify_all()

    def status(self) -> dict[str, int]:
        """Return the numbers of members that are done, failed, cached, running."""
        flow = self._driver.flows[0]
        return {**flow.counts, "running": flow.running}

    def wait(self, timeout: float | None = None) -> Results:
        """Wait for the end and return the results, in input order.

        Raises:
            TimeoutError: it has not ended after ``timeout`` seconds; it goes on.
            Exception: what ended the run itself (not a member's failure, which is in its result).
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended, timeout):
                raise TimeoutError(f"the fan-out has not ended after {timeout} s; it goes on")
        self._thread.join()
        if self._error is not None:
            raise self._error
        self._results.sort(key=lambda result: result.path)
        return self._results

    def result(self, *path: int, timeout: float | None = None) -> Result:
        """Wait for one member: ``result(3)``, of a nested spread ``result(3, 1)``.

        Raises:
            TimeoutError: it has not ended after ``timeout`` seconds.
            TaskError: the run has ended without it.
        """
        if not path:
            raise ConfigError("which member?", at="Running.result()", fix="result(3)")
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended or self._find(path) is not None, timeout):
                raise TimeoutError(f"member {'.'.join(map(str, path))} has not ended after {timeout} s")
            found = self._find(path)
        if found is None:
            name = ".".join(map(str, path))
            raise TaskError(f"the run has ended without member {name}", at=f"member {name}", fix="was it dropped, or cancelled?")
        return found

    def _find(self, path: tuple[int, ...]) -> Result | None:
        return next((result for result in self._results if result.path == path), None)

    def logs(self, *path: int) -> str:
        """Return what a finished member printed."""
        return self.result(*path).logs

    def as_completed(self) -> Iterator[Result]:
        """Yield results as they come; the run does not wait for whoever takes them."""
        taken = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or len(self._results) > taken)  # noqa: B023
                fresh = list(self._results[taken:])
            if not fresh:
                break
            taken += len(fresh)
            yield from fresh
        if self._error is not None:
            raise self._error

    def cancel(self) -> Results:
        """Start nothing more, give running members ``grace_s``, end the workers; return what was finished."""
        self._cancelled = True
        self._driver.cancel()
        return self.wait()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: Any) -> None:
        if not self._ended:
            self.cancel()
