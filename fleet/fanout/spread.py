"""`spread` and `gather`: a list in, results out, in order.

A spread is lazy: `.map`, `.filter`, `.batch`, `.spread` describe what happens to one member; `.gather`, `.as_completed` or `.start`
runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

from fleet.errors import ConfigError
from fleet.fanout import chain, failure
from fleet.fanout.backends.choose import choose
from fleet.fanout.chain import Level, Stage
from fleet.fanout.driver import Driver
from fleet.fanout.flow import Flow
from fleet.fanout.options import Options, checked
from fleet.fanout.results import Result, Results
from fleet.fanout.run_directory import RunDirectory
from fleet.fanout.running import Running

# What spreads of one run must agree on.
_SHARED = ("backend", "cluster", "workers", "cpus", "gpus", "memory", "name", "progress", "grace_s")


class Spread:
    """A list of items and what is to happen to each. Each method returns a new spread; nothing runs before a terminal one."""

    def __init__(self, items: Iterable[Any], options: Mapping[str, Any], levels: tuple[Level, ...] = (Level(),)) -> None:
        self._items, self._given, self._levels = items, dict(options), levels
        self.options: Options = checked(self._given)

    def map(self, function: Callable[[Any], Any]) -> Spread:
        """Replace each member's value by ``function(value)``; after `batch`, a list of values by as many values.

        Several stages of one member run back to back on one worker. A coroutine function is awaited.
        """
        options = self._merged(function)
        return Spread(self._items, options, self._with(Stage(chain.MAP, _callable(function, ".map()"))))

    def filter(self, predicate: Callable[[Any], Any]) -> Spread:
        """Drop the members for whose value ``predicate(value)`` is false: they are in no list, and no failure."""
        if self._levels[-1].batch:
            raise ConfigError("a batch cannot be filtered", at=".filter()", fix="filter before .batch()")
        return Spread(self._items, self._merged(predicate), self._with(Stage(chain.FILTER, _callable(predicate, ".filter()"))))

    def batch(self, size: int) -> Spread:
        """Give the stages behind this one lists of ``size`` values (the last one may be shorter).

        ``size`` neighbours are one call from their first stage on; gathered they are single members again.
        """
        if not isinstance(size, int) or size < 1:
            raise ConfigError(f"a batch has an int >= 1 of members, got {size!r}", at=".batch()", fix=".batch(32)")
        if self._levels[-1].batch:
            raise ConfigError("members are in batches already", at=".batch()", fix="one .batch() for each .spread()")
        last = self._levels[-1]
        return self._changed(Level((*last.stages, Stage(chain.BATCH, None)), size))

    def spread(self, inner: Any) -> Spread:
        """Spread each member once more: ``inner(value)`` returns its elements, or a list gives (value, element) pairs.

        Each inner member is scheduled like any other; gathered, a member becomes the list of its inner members.
        """
        if self._levels[-1].batch:
            raise ConfigError("a batch cannot be spread", at=".spread()", fix="leave .batch() out, or put it behind .spread()")
        if not callable(inner):
            inner = list(_iterable(inner, ".spread()"))
        return Spread(self._items, self._given, (*self._levels[:-1], self._levels[-1]._replace(inner=inner), Level()))

    def gather(self, errors: Any = "raise") -> Any:
        """Run everything; return the list of values in input order (nested spreads: lists in it).

        Args:
            errors: what happens when a member fails. "raise": start nothing more, give the running members ``grace_s``, raise the
                member's own exception with a note (member, item, attempts, traceback, log) and ``error.fleet.partial``, the results
                that were finished. "collect": return `Results`, never raise for a member. "skip": leave it out. Anything else
                stands in for its value.

        Raises:
            Exception: the first failed member's own (errors="raise"); what the iterator of the items raised.
            ConfigError: an impossible request, before anything runs.
            KeyboardInterrupt: at Ctrl-C; what is finished is in ``run_dir``.

        Example:
            >>> fleet.spread([1, 2, 3]).map(lambda x: x * x).gather()
            [1, 4, 9]
        """
        return _gathered([self], errors)[0]

    def as_completed(self, order: str = "completion") -> Iterator[Result]:
        """Yield each member's `Result` as it is finished, failed ones too; ``order="input"``: in input order.

        Members run ahead of the loop only as far as the backend prefetches; leaving the loop ends the run and its workers.
        """
        if order not in ("completion", "input"):
            raise ConfigError(f"order={order!r} is not known", at=".as_completed()", fix='order="completion" or order="input"')
        if order == "input" and len(self._levels) > 1:
            raise ConfigError('order="input" needs one level', at=".as_completed()", fix="gather() nested spreads")
        return self._stream(order)

    def _stream(self, order: str) -> Iterator[Result]:
        driver = self.driver()
        waiting: dict[tuple[int, ...], Result] = {}
        with driver:
            if order == "completion":
                yield from driver.results()
                return
            for result in driver.results():
                waiting[result.path] = result
                flow = driver.flows[0]
                while waiting and flow.first_open() > min(waiting)[0]:
                    yield waiting.pop(min(waiting))
        yield from (waiting[path] for path in sorted(waiting))

    def start(self) -> Running:
        """Run everything on a thread of its own and return at once: `Running` has status, wait, result, logs, cancel."""
        return Running(self)

    def driver(self) -> Driver:
        """Return a run of this spread that has not begun."""
        return driver_of([self], [None])

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("a spread is lazy: end it with .gather(), .as_completed() or .start()")

    def _with(self, stage: Stage) -> tuple[Level, ...]:
        last = self._levels[-1]
        return (*self._levels[:-1], last._replace(stages=(*last.stages, stage)))

    def _changed(self, last: Level) -> Spread:
        return Spread(self._items, self._given, (*self._levels[:-1], last))

    def _merged(self, function: Any) -> dict[str, Any]:
        """Return the options with those that a @fleet.member brings; two different wishes for one option conflict."""
        brought: Mapping[str, Any] = getattr(function, "fleet_options", {})
        for name, value in brought.items():
            if name in self._given and self._given[name] != value:
                what = f"{chain.name_of(function)} asks for {name}={value!r}, the spread for {name}={self._given[name]!r}"
                raise ConfigError(what, at=".map()", fix="say it in one of the two places")
        return {**self._given, **brought}


def spread(items: Iterable[Any], **options: Any) -> Spread:
    """Spread a list (or any iterable, which is pulled as workers get free) over workers; lazy until `.gather()`.

    Args:
        backend: "local" (worker processes, the default), "thread", "async" (coroutine functions, 1,000 at once),
            "dask" (a Dask cluster), "inline" (here, in order: for the debugger).
        cluster: of Dask: a ``distributed.Client``, used and never closed, or an address; without it one is started here.
        workers: how many at once; default: usable cores / ``cpus``.
        cpus, gpus, memory: of each member: threads of numeric libraries, GPUs of its own, bytes ("2G") at which it is stopped.
        limit: named tokens, ``{"warehouse": 18}``: at most 18 members at once.
        seed: of the run; each member's is made of it and its path. None: members are not seeded.
        retries, retry_on, backoff_s: repeats after exceptions of these types, first after ``backoff_s``, then twice as long...
        lost_retries: repeats after the death of a worker (default 1).
        timeout: seconds of one attempt, from its beginning; then its process is killed.
        grace_s: what running members get when the run ends early (default 5).
        run_dir: directory that keeps journal, logs and large results. Without: a temporary one.
        cache: "run" runs only what is not finished in ``run_dir``; "off" (default) everything.
        version: any text that is part of what "changed" means.
        name, progress: of the progress line; "auto": on a terminal.

    Raises:
        ConfigError: an unknown option, a value out of range, more than this machine has.

    Example:
        >>> fleet.spread([3, 1, 2], workers=2).map(lambda x: x * 10).gather()
        [30, 10, 20]
    """
    return Spread(_iterable(items, "fleet.spread()"), options)


def gather(*spreads: Spread, errors: Any = "raise") -> tuple[Any, ...]:
    """Run several spreads at once on one pool of workers; return what each one's `gather` would.

    Raises:
        ConfigError: they disagree about backend, workers, cpus, gpus or memory.

    Example:
        >>> squares, doubles = fleet.gather(fleet.spread([1, 2]).map(lambda x: x * x), fleet.spread([1, 2]).map(lambda x: x * 2))
    """
    return tuple(_gathered(list(spreads), errors))


def _gathered(spreads: list[Spread], errors: Any, only: Sequence[Iterable[tuple[int, Any]] | None] | None = None) -> list[Any]:
    if not spreads:
        return []
    driver = driver_of(spreads, only or [None] * len(spreads))
    found: dict[int, Results] = {id(flow.directory): Results() for flow in driver.flows}
    with driver:
        for result in driver.results():
            found[id(result.directory)].append(result)
            if not result.ok and isinstance(errors, str) and errors == "raise":
                for late in driver.wind_down(spreads[0].options.grace_s):
                    found[id(late.directory)].append(late)
                results = found[id(result.directory)]
                results.sort(key=_path)
                if result.log and result.directory is not None:
                    result.directory.keep()
                raise failure.noted(result, results)
    gathered = []
    for one, flow in zip(spreads, driver.flows, strict=True):
        results = found[id(flow.directory)]
        results.sort(key=_path)
        gathered.append(_assembled(one, flow, results, errors))
    return gathered


def _path(result: Result) -> tuple[int, ...]:
    return result.path


def _assembled(one: Spread, flow: Flow, results: Results, errors: Any) -> Any:
    if isinstance(errors, str) and errors == "collect":
        results.again = lambda before, options: _again(one, before, options)
        return results
    skip = isinstance(errors, str) and errors == "skip"
    values = [(r.path, r.value if r.ok else errors) for r in results if r.ok or not skip]
    if len(one._levels) == 1:
        return [value for _, value in values]
    root: list[Any] = []
    nodes: dict[tuple[int, ...], list[Any]] = {(): root}
    for path in flow.expanded:
        nodes[path] = []
    for path, value in sorted([*values, *((path, nodes[path]) for path in flow.expanded)], key=lambda pair: pair[0]):
        nodes[path[:-1]].append(value)
    return root


def _again(one: Spread, before: Results, options: dict[str, Any]) -> Results:
    """Run what failed once more, at its own places."""
    if len(one._levels) > 1 or one._levels[0].batch:
        raise ConfigError(
            "nested spreads and batches cannot be retried in part", at="Results.retry()", fix='cache="run" and gather() again'
        )
    given = {**one._given, **options}
    if one.options.cache == "run":  # what failed is not in the journal's finished members: nothing else to do
        given["cache"] = "run"
    pairs = [(result.path[0], result.item) for result in before.failed]
    fresh = _gathered([Spread(one._items, given, one._levels)], "collect", [pairs])[0]
    merged = Results([result for result in before if result.ok] + list(fresh))
    merged.sort(key=_path)
    merged.again = before.again
    return merged


def driver_of(spreads: list[Spread], only: Sequence[Iterable[tuple[int, Any]] | None]) -> Driver:
    """Return a run of several spreads that has not begun. ``only``: (place, item) pairs in place of a spread's own items."""
    options = spreads[0].options
    for one in spreads[1:]:
        for name in _SHARED:
            if getattr(one.options, name) != getattr(options, name):
                what = (
                    f"two spreads of one run disagree about {name}: {getattr(options, name)!r} and {getattr(one.options, name)!r}"
                )
                raise ConfigError(what, at="fleet.gather()", fix="give both the same, or gather them one after the other")
    backend = choose(options.backend, options.cluster)
    flows: list[Flow] = []
    opened: list[RunDirectory] = []
    try:
        for one, pairs in zip(spreads, only, strict=True):
            opened.append(RunDirectory(one.options.run_dir))
            flows.append(Flow(enumerate(one._items) if pairs is None else pairs, one._levels, one.options, opened[-1]))
        sized = [pairs if pairs is not None else one._items for one, pairs in zip(spreads, only, strict=True)]
        known = sum(len(items) for items in sized if isinstance(items, Sized)) if all(isinstance(i, Sized) for i in sized) else None
        return Driver(flows, backend, known, all(isinstance(i, (list, tuple)) for i in sized))
    except BaseException:
        for flow in flows:
            flow.recall.close()
        for directory in opened:
            directory.release()
        raise


def _iterable(items: Any, at: str) -> Iterable[Any]:
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
        shown = "a dict" if isinstance(items, Mapping) else f"{type(items).__name__} {failure.shown(items)}"
        fix = (
            "list(d.items()), or fleet.grid(...) for all combinations"
            if isinstance(items, Mapping)
            else "put the items into a list"
        )
        raise ConfigError(f"a spread takes a list of items, got {shown}", at=at, fix=fix)
    return items


def _callable(function: Any, at: str) -> Callable[[Any], Any]:
    if not callable(function):
        raise ConfigError(
            f"{at} takes a function, got {failure.shown(function)}", at=at, fix="pass the function itself, not its result"
        )
    plain: Callable[[Any], Any] = getattr(function, "fleet_function", function)
    return plain
