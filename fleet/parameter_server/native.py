"""Imports the C++ core, or says how to build it. Everybody who needs tables gets the core from here."""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType
from typing import Any

from fleet.env import get
from fleet.errors import ConfigError
from fleet.parameter_server import fingerprint

SOURCES = os.path.join(os.path.dirname(__file__), "core")  # in a source tree; an installed wheel has none


def load() -> Any:
    """Return the module ``fleet.parameter_server._core``, with the SIMD level that FLEET_SIMD asks for.

    Raises:
        ConfigError: the core was not built, was built for another Python or from other sources than those beside it, or this CPU
            lacks the level. A retry fails again.
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
    _refuse_another(core)
    level = get("FLEET_SIMD")
    if level:
        try:
            core.set_simd(level)
        except ValueError as error:
            raise ConfigError(str(error), at="FLEET_SIMD", fix="set FLEET_SIMD to a level of this CPU, or unset it") from error
    return core


@functools.cache
def _refuse_another(core: ModuleType) -> None:
    """Refuse a core that was built from other sources: after a pull without a build, names or fields would be missing somewhere.

    Cost: 2 ms, once a process.
    """
    wanted = fingerprint.of_sources(SOURCES)
    if wanted and core.core_info().get("sources") != wanted:
        tree = os.path.abspath(os.path.join(SOURCES, "../../.."))
        raise ConfigError(
            "the parameter server's C++ core was built from other sources than those beside it",
            at=str(core.__file__),
            fix=f"build it again: make -C {tree} build (or there: python setup.py build_ext --inplace)",
        )
