"""``custom``: strategies of the user's own, checked when they are given."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fleet.collective.strategies.hooks import Strategy
from fleet.errors import ConfigError


def checked(given: Any, taken: Collection[str], at: str) -> tuple[Strategy, ...]:
    """Return what ``custom=`` was given as a tuple.

    Raises:
        ConfigError: not a list of Strategy objects, a name that is missing or ``taken``, or one that is given twice.
    """
    if not isinstance(given, (list, tuple)):
        raise ConfigError(f"custom must be a list, got {given!r}", at=at, fix="write custom=[Mine(...)]")
    names: set[str] = set()
    for strategy in given:
        if not isinstance(strategy, Strategy):
            found = f"the class {strategy.__name__}" if isinstance(strategy, type) else f"a {type(strategy).__name__}"
            fix = "derive it from fleet.Strategy or fleet.Codec, and give an object: custom=[Mine(...)]"
            raise ConfigError(f"custom holds {found}, which is no strategy object", at=at, fix=fix)
        name = strategy.name
        if not isinstance(name, str) or not name.isidentifier():
            what = f"{type(strategy).__name__} has no name that a strategy can have: {name!r}"
            raise ConfigError(what, at=at, fix="set name = 'my_strategy' in the class")
        if name in taken or name in names:
            what = f"{type(strategy).__name__} is called {name!r}, as another strategy is"
            raise ConfigError(what, at=at, fix="choose another name")
        if not hasattr(strategy, "settings"):
            what = f"{type(strategy).__name__}.__init__ never called the one that it overrides"
            raise ConfigError(what, at=at, fix="call super().__init__(**settings) first")
        names.add(name)
    return tuple(given)


def described(strategy: Strategy) -> dict[str, Any]:
    """Return what the trainers agree on and a checkpoint notes: class, name and settings."""
    kind = type(strategy)
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "name": strategy.name, **strategy.settings}
