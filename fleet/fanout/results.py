"""How members ended: `Result`, and `Results`, a list of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fleet.errors import ConfigError
from fleet.fanout.failure import tail
from fleet.fanout.parcel import Packed, unpack

if TYPE_CHECKING:
    from fleet.fanout.run_directory import RunDirectory

_LOG_LINES = 1_000_000  # "all": what tail() bounds by bytes anyway


class Result:
    """One member's end.

    Attributes:
        index, path: its place in the list; in each level of nested spreads.
        item: what it was given.  state: ok, error, lost, timeout.
        error, traceback: what it raised, and where.  log: the file of what it printed, "" if nothing.
        seconds: of its last attempt.  attempts: how often it began.  cached: it was not run, the journal had it.
        worker: who ran it.  seed: its seed.
    """

    __slots__ = ("_value", "attempts", "cached", "directory", "error", "item", "log", "path", "seconds", "seed", "state",
                 "traceback", "worker")  # fmt: skip

    def __init__(self, path: tuple[int, ...], item: Any, state: str, value: Any, seconds: float, attempts: int) -> None:
        self.path, self.item, self.state, self._value = path, item, state, value
        self.seconds, self.attempts = seconds, attempts
        self.error: BaseException | None = None
        self.traceback = self.log = self.worker = ""
        self.cached = False
        self.seed: int | None = None
        self.directory: RunDirectory | None = None

    @property
    def ok(self) -> bool:
        """Say whether it has a value."""
        return self.state == "ok"

    @property
    def index(self) -> int:
        """Its place in the list that was spread."""
        return self.path[0] if len(self.path) == 1 else self.path[-1]

    @property
    def value(self) -> Any:
        """What the member returned; a failed member raises its own exception here."""
        if self.error is not None:
            raise self.error
        if type(self._value) is Packed:
            self._value = unpack(self._value)
        return self._value

    @property
    def logs(self) -> str:
        """What the member printed (the last 8 kB; ``log`` is the whole file)."""
        return tail(self.log, _LOG_LINES) if self.log else ""

    def __repr__(self) -> str:
        time = "cached" if self.cached else f"{self.seconds:.3f} s"
        said = f"{type(self.error).__name__}: {self.error}" if self.error else time
        return f"<Result {'.'.join(map(str, self.path))} {self.state}, {said}>"


class Results(list[Result]):
    """The results of a fan-out, in input order."""

    again: Callable[[Results, dict[str, Any]], Results] | None = None  # set by the spread: runs failed members again

    @property
    def ok(self) -> Results:
        """Return those that have a value."""
        return Results(result for result in self if result.ok)

    @property
    def failed(self) -> Results:
        """Return those that failed."""
        return Results(result for result in self if not result.ok)

    @property
    def values(self) -> list[Any]:
        """Return the values of those that have one."""
        return [result.value for result in self if result.ok]

    def best(self, key: str | Callable[[Any], float] | None = None, mode: str = "max") -> Result:
        """Return the result whose value (or ``value[key]``, or ``key(value)``) is largest; ``mode="min"``: smallest.

        Raises:
            ConfigError: no member succeeded with a number there, or ``mode`` is unknown.
        """
        if mode not in ("max", "min"):
            raise ConfigError(f"mode={mode!r} is not known", at="Results.best()", fix='mode="max" or mode="min"')
        scored = [(_score(result.value, key), result) for result in self if result.ok]
        finite = [pair for pair in scored if not math.isnan(pair[0])]
        if not finite:
            what = "no member has a score to compare"
            raise ConfigError(what, at="Results.best()", fix="see .failed; members must return numbers")
        return (max if mode == "max" else min)(finite, key=lambda pair: pair[0])[1]

    def to_frame(self) -> Any:
        """Return a pandas DataFrame: one row per member; items and values that are dicts become columns."""
        try:
            import_module = __import__("importlib").import_module
            frame = import_module("pandas").DataFrame
        except ImportError:
            raise ConfigError("pandas is not installed", at="Results.to_frame()", fix="pip install pandas") from None
        rows = []
        for result in self:
            row: dict[str, Any] = {"member": ".".join(map(str, result.path)), "state": result.state}
            row |= result.item if isinstance(result.item, dict) else {"item": result.item}
            value = result.value if result.ok else None
            row |= value if isinstance(value, dict) else {"value": value}
            error = f"{type(result.error).__name__}: {result.error}" if result.error else None
            rows.append({**row, "seconds": result.seconds, "attempts": result.attempts, "cached": result.cached, "error": error})
        return frame(rows)

    def retry(self, **options: Any) -> Results:
        """Run the failed members again, each at its own place and with its own seed, and return all results.

        Args:
            options: of the spread, replaced for this time: ``retry(timeout=600)``.
        """
        if self.again is None:
            raise ConfigError("only what gather() returned can be retried", at="Results.retry()", fix="call it on the whole list")
        return self.again(self, options)


def _score(value: Any, key: str | Callable[[Any], float] | None) -> float:
    found = value if key is None else key(value) if callable(key) else value[key]
    return float(found)
