"""Imports Paddle, or says how to install it. Public calls that need Paddle begin here; who comes after them just imports it."""

from __future__ import annotations

import re
from typing import Any

from fleet.errors import ConfigError

OLDEST = (2, 6, 2)  # the newest GPU wheel on PyPI; a test runs on its CPU wheel


def load(call: str) -> Any:
    """Return the module ``paddle``; ``call`` is who needs it.

    Raises:
        ConfigError: Paddle is missing, cannot be loaded, or is older than 2.6.2. Retrying fails again.
    """
    try:
        import paddle
    except ImportError as error:
        fix = "in fleet's source tree: pip install '.[cpu]' (or '.[gpu]'); the README says which Paddle for which machine"
        raise ConfigError(f"PaddlePaddle is not installed ({error})", at=call, fix=fix) from None
    numbers = tuple(int(n) for n in re.findall(r"\d+", paddle.__version__)[:3])
    if (0, 0, 0) != numbers < OLDEST:  # 0.0.0 is a build of Paddle's development branch
        fix = "in a fresh environment, in fleet's source tree: pip install '.[cpu]' (or '.[gpu]')"
        raise ConfigError(f"Paddle {paddle.__version__} is older than what fleet runs on, 2.6.2", at=call, fix=fix)
    return paddle
