"""Imports the C++ core, or says how to build it. Everybody who needs tables gets the core from here."""

from __future__ import annotations

import importlib
from typing import Any

from fleet.env import get
from fleet.errors import ConfigError


def load() -> Any:
    """Return the module ``fleet.parameter_server._core``, with the SIMD level that FLEET_SIMD asks for.

    Raises:
        ConfigError: the core was not built, was built for another Python, or this CPU lacks the level. A retry fails again.
    """
    try:
        core = importlib.import_module("fleet.parameter_server._core")
    except ImportError as error:
        raise ConfigError(
            f"the parameter server's C++ core is not there ({error})",
            at="fleet.parameter_server._core",
            fix="install a C++17 compiler and the Python headers (Debian: apt-get install g++ python3-dev), "
            "then rebuild in fleet's source tree: make build",
        ) from error
    level = get("FLEET_SIMD")
    if level:
        try:
            core.set_simd(level)
        except ValueError as error:
            raise ConfigError(str(error), at="FLEET_SIMD", fix="set FLEET_SIMD to a level of this CPU, or unset it") from error
    return core
