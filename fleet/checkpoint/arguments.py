"""What a Checkpointer can be given."""

from __future__ import annotations

import math
import os
from typing import Any

from fleet import shelf
from fleet.errors import ConfigError

_AT = "fleet.Checkpointer()"


def check_arguments(
    directory: str, loader: Any, every_steps: Any, every_minutes: Any, keep: Any, best: Any, full_every: Any, row_state: Any
) -> None:
    """Refuse arguments that make no sense."""
    fixes = {"every_steps": "None saves at the end of epochs only", "keep": "the default keeps 2",
             "full_every": "1 writes all rows at each save"}  # fmt: skip
    for name, value in (("every_steps", every_steps), ("keep", keep), ("full_every", full_every)):
        if not (name == "every_steps" and value is None) and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name} must be an int >= 1, got {value!r}", at=_AT, fix=fixes[name])
    if every_minutes is not None:
        number = isinstance(every_minutes, (int, float)) and not isinstance(every_minutes, bool)
        if not number or not 0 < every_minutes < math.inf:
            what = f"every_minutes must be a number above 0, got {every_minutes!r}"
            raise ConfigError(what, at=_AT, fix="None saves at the end of epochs, and by every_steps")
    if best not in (None, *shelf.MODES):
        raise ConfigError(f'best must be "min" or "max", got {best!r}', at=_AT, fix="say whether a low or a high score is good")
    if row_state not in ("keep", "drop"):
        raise ConfigError(f'row_state must be "keep" or "drop", got {row_state!r}', at=_AT, fix='the default is "keep"')
    if loader is not None and not hasattr(loader, "state"):
        fix = "give what fleet.distributed_loader returned"
        raise ConfigError(f"a {type(loader).__name__} does not know its position", at=_AT, fix=fix)
    if os.path.exists(directory) and not os.path.isdir(directory):
        raise ConfigError(f"{directory} is a file", at=_AT, fix="give a directory, or remove the file")
