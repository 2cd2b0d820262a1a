"""A number of bytes, as people write it."""

from __future__ import annotations

import re
from typing import Any

from fleet.errors import ConfigError

MIN_SERVER_MEMORY = 128 << 20  # 40 to 60 MB of it are Python's and NumPy's


def server_memory(value: Any, at: str) -> int:
    """Return the bytes of ``8G``, ``512M``, ``600000K`` or a plain number.

    Raises:
        ConfigError: it is none of these, or less than a server without rows needs.
    """
    found = re.fullmatch(r"([0-9]{1,15})([KMG]?)", str(value), re.IGNORECASE) if type(value) in (int, str) else None
    size = int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2].upper()] if found else 0
    if size < MIN_SERVER_MEMORY:
        least = f"{MIN_SERVER_MEMORY >> 20}M"
        what = f"must be a number of bytes from {least} on, got {value!r}"
        raise ConfigError(what, at=at, fix=f"write e.g. 8G or 512M; a server without rows takes up to {least}")
    return size
