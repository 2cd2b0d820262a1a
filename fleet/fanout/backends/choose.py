"""From what `backend=` says to a backend."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

from fleet.errors import ConfigError
from fleet.fanout.backends.protocol import Backend
from fleet.fanout.current import current

# Name -> (module, class); each is loaded when it is asked for.
BACKENDS = {
    "async": ("fleet.fanout.backends.async_", "Async"),
    "dask": ("fleet.fanout.backends.dask", "Dask"),
    "inline": ("fleet.fanout.backends.inline", "Inline"),
    "local": ("fleet.fanout.backends.local", "Local"),
    "ray": ("fleet.fanout.backends.ray", "Ray"),
    "thread": ("fleet.fanout.backends.thread", "Thread"),
}
CLUSTERS = ("dask", "ray")  # what `cluster=` may be given to


def choose(asked: Any, cluster: Any = None) -> Backend:
    """Return a fresh backend for a name; None: ``local``, inside a member what its cpus allow: inline, or threads.

    Raises:
        ConfigError: there is none of that name, with the nearest one.
    """
    if asked is None:
        member = current()
        asked = "local" if member is None else "inline" if member.cpus < 2 else "thread"
    if not isinstance(asked, str):
        raise ConfigError(f"backend= takes a name, got a {type(asked).__name__}", at="fleet.spread()", fix=_fix(""))
    if asked not in BACKENDS:
        raise ConfigError(f"there is no backend {asked!r}", at="fleet.spread()", fix=_fix(asked))
    module, name = BACKENDS[asked]
    kind = getattr(import_module(module), name)
    if cluster is not None and asked not in CLUSTERS:
        fix = 'backend="dask" or "ray", or leave cluster= out'
        raise ConfigError(f"the {asked} backend takes no cluster", at="fleet.spread()", fix=fix)
    made: Backend = kind(cluster) if asked in CLUSTERS else kind()
    return made


def _fix(asked: str) -> str:
    near = difflib.get_close_matches(asked, BACKENDS, 1)
    names = ", ".join(BACKENDS)
    return f'backend="{near[0]}"? There are: {names}' if near else f"take one of: {names}"
