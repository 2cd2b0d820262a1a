"""What happens to one member: stages, fused into levels.

A *level* is what one call does on one worker: all stages up to the next `.spread`, back to back, no barrier and nothing sent in
between. `.spread` ends a level; each of its elements is a member of the next one. `.batch(n)` gives the stages behind it lists of
n values; the n neighbours are one call from the level's beginning, so nothing is regrouped and the groups never depend on timing.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from fleet.errors import ConfigError

MAP, FILTER, BATCH = "map", "filter", "batch"


class _Dropped:
    """A member that a filter dropped; there is one object of it in every process."""

    def __reduce__(self) -> str:
        return "DROPPED"

    def __repr__(self) -> str:
        return "DROPPED"


DROPPED = _Dropped()


class Stage(NamedTuple):
    """One step: ``map`` or ``filter`` with its function; ``batch`` has none."""

    kind: str
    function: Callable[[Any], Any] | None


class Level(NamedTuple):
    """The fused stages of one call. ``inner`` ends it with a spread: a function of the value, or a list of elements."""

    stages: tuple[Stage, ...] = ()
    batch: int = 0  # members per call; 0: one, not in a list
    inner: Any = None

    @property
    def spreads(self) -> bool:
        return self.inner is not None

    def functions(self) -> list[Callable[..., Any]]:
        """Return the user's functions, in order."""
        found = [stage.function for stage in self.stages if stage.function is not None]
        return [*found, self.inner] if callable(self.inner) else found


def name_of(function: Any) -> str:
    """Return how messages call a function."""
    return str(getattr(function, "__name__", "") or type(function).__name__)


def run(level: Level, item: Any) -> Any:
    """Run a level on one item (with ``batch``: on a list of items), here and now.

    Returns:
        the value, or DROPPED; with ``batch`` a list of them; with ``inner`` the list of the next level's items.
    """
    if level.batch:
        return _run_batch(level, item)
    value = item
    for kind, function in level.stages:
        assert function is not None
        if kind is MAP or kind == MAP:
            value = function(value)
            if type(value) is types.CoroutineType:
                value = _finished(value)
        elif not function(value):
            return DROPPED
    return elements(level.inner, value) if level.spreads else value


async def run_async(level: Level, item: Any) -> Any:
    """Do the same where an event loop runs already: coroutines are awaited."""
    if level.batch:
        raise AssertionError("batches are refused by the async backend")
    value = item
    for kind, function in level.stages:
        assert function is not None
        made = function(value)
        if hasattr(made, "__await__"):
            made = await made
        if kind == MAP:
            value = made
        elif not made:
            return DROPPED
    return elements(level.inner, value) if level.spreads else value


def _finished(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


def elements(inner: Any, value: Any) -> list[Any]:
    """Return the items of the next level: ``inner(value)``, or (value, element) for each element of a list."""
    if callable(inner):
        made = inner(value)
        if isinstance(made, (str, bytes)) or not isinstance(made, Iterable):
            raise ConfigError(
                f"{name_of(inner)} must return the elements of the inner spread, it returned a {type(made).__name__}",
                at=f".spread({name_of(inner)})",
                fix="return a list",
            )
        return list(made)
    return [(value, element) for element in inner]


def _run_batch(level: Level, items: list[Any]) -> list[Any]:
    values: list[Any] = list(items)
    places = list(range(len(values)))  # of what the filters left
    together = False
    for kind, function in level.stages:
        if kind == BATCH:
            together = True
        elif together and places:
            assert function is not None
            made = function([values[place] for place in places])
            for place, value in zip(places, _as_many(made, len(places), function), strict=True):
                values[place] = value
        elif not together:
            alone = Level((Stage(kind, function),))
            for place in places:
                values[place] = run(alone, values[place])
            places = [place for place in places if values[place] is not DROPPED]
    return values


def _as_many(made: Any, number: int, function: Any) -> list[Any]:
    if type(made) is types.CoroutineType:
        made = _finished(made)
    values = list(made) if isinstance(made, Iterable) and not isinstance(made, (str, bytes, dict)) else None
    if values is None or len(values) != number:
        got = f"{len(values)} values" if values is not None else f"a {type(made).__name__}"
        raise ConfigError(
            f"{name_of(function)} was given a batch of {number} values and returned {got}",
            at=f".batch().map({name_of(function)})",
            fix="return one value for each value of the batch, in order",
        )
    return values
