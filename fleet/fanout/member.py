"""`@fleet.member`: a function that knows how it wants to be run as a member."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from fleet.fanout.options import checked
from fleet.fanout.spread import Spread, spread


class MemberFunction:
    """A function with options. Called, it runs here and now; spread, as a fan-out."""

    def __init__(self, function: Callable[[Any], Any], options: dict[str, Any]) -> None:
        self.fleet_function, self.fleet_options = function, options
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fleet_function(*args, **kwargs)

    def spread(self, items: Iterable[Any], **options: Any) -> Spread:
        """Spread a list over this function; ``options`` win over those of the decorator."""
        return spread(items, **{**self.fleet_options, **options}).map(self.fleet_function)


def member(function: Callable[[Any], Any] | None = None, **options: Any) -> Any:
    """Give a function the options under which it is spread: ``@fleet.member(cpus=2, retries=2, timeout=600)``.

    Raises:
        ConfigError: as `fleet.spread`, when the function is decorated.

    Example:
        >>> @fleet.member(retries=2)
        ... def train(p): return p["rate"]
        >>> train({"rate": 0.1}), train.spread(fleet.grid(rate=[0.1, 0.3])).gather()
        (0.1, [0.1, 0.3])
    """
    checked(options, "@fleet.member()")
    if function is not None:
        return MemberFunction(function, options)
    return lambda found: MemberFunction(found, options)
