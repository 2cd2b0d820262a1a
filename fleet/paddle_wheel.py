"""Imports Paddle, or says how to install it. Public calls that need Paddle begin here; who comes after them just imports it."""

from __future__ import annotations

from typing import Any

from fleet.errors import ConfigError


def load(call: str) -> Any:
    """Return the module ``paddle``; ``call`` is who needs it.

    Raises:
        ConfigError: Paddle is missing or cannot be loaded. Retrying fails again.
    """
    try:
        import paddle
    except ImportError as error:
        fix = "in fleet's source tree: pip install '.[cpu]' (or '.[gpu]'); the README says which Paddle for which machine"
        raise ConfigError(f"PaddlePaddle is not installed ({error})", at=call, fix=fix) from None
    return paddle
