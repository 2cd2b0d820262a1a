"""One logger, named ``fleet``: lines on stderr, each with the role of the process that speaks.

A library must not own the user's logging: nothing is configured until the first message, and only if
neither the ``fleet`` logger nor the root logger has a handler of the user's.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from fleet import env

if TYPE_CHECKING:
    import logging


def logger() -> logging.Logger:
    """Return the logger; its level comes from FLEET_LOG_LEVEL (default INFO)."""
    import logging  # 9 ms that a launcher start does not have to pay

    log = logging.getLogger("fleet")
    if not log.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("fleet: %(levelname)s: %(message)s"))
        log.addHandler(handler)
        log.setLevel(env.get("FLEET_LOG_LEVEL", "INFO").upper())
        log.propagate = False
    return log


def info(message: str) -> None:
    """Print one plain line on stderr."""
    logger().info(message)


def warning(message: str) -> None:
    """Print one line that the launcher shows from any rank."""
    logger().warning(message)
