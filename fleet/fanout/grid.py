"""`fleet.grid`: all combinations of some lists."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

from fleet.errors import ConfigError


def grid(**lists: Iterable[Any]) -> list[dict[str, Any]]:
    """Return every combination as a dict, the last name varying fastest.

    Raises:
        ConfigError: a value that is no list (a string is none).

    Example:
        >>> fleet.grid(depth=[3, 5], rate=[0.1])
        [{'depth': 3, 'rate': 0.1}, {'depth': 5, 'rate': 0.1}]
    """
    for name, values in lists.items():
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise ConfigError(f"{name}={values!r} is no list", at="fleet.grid()", fix=f"{name}=[{values!r}]")
    return [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
