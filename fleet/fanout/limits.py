"""Named tokens: ``limit={"warehouse": 18}`` lets at most 18 members run at once that hold one, over all spreads of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleet.errors import ConfigError


class Tokens:
    """The free tokens of a run. Every member of a spread holds one of each name in the spread's ``limit``."""

    def __init__(self, limits: Sequence[Mapping[str, int]]) -> None:
        self._free: dict[str, int] = {}
        for limit in limits:
            for name, number in limit.items():
                if self._free.setdefault(name, number) != number:
                    raise ConfigError(
                        f"two spreads of one run limit {name!r} to {self._free[name]} and {number}",
                        at="fleet.gather()",
                        fix="give both the same number, or the tokens different names",
                    )

    def free(self, limit: Mapping[str, int] | None) -> bool:
        """Say whether one of each is free."""
        return not limit or all(self._free[name] > 0 for name in limit)

    def take(self, limit: Mapping[str, int] | None) -> None:
        """Take one of each."""
        for name in limit or ():
            self._free[name] -= 1

    def give(self, limit: Mapping[str, int] | None) -> None:
        """Give them back."""
        for name in limit or ():
            self._free[name] += 1
