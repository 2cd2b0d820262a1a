"""Seeds `random`, `numpy.random` and `paddle` for a member (which seed it has: flow.seed_of)."""

from __future__ import annotations

import _random
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def sow(seed: int) -> None:
    """Seed ``random`` and, where they are loaded, ``numpy.random`` and ``paddle``."""
    _random.Random.seed(random._inst, seed)  # what random.seed(int) comes to, in half the time
    random._inst.gauss_next = None  # type: ignore[attr-defined]
    for name in _SOWERS:
        if name in sys.modules:
            _SOWERS[name](sys.modules[name], seed)
    _Watch.seed = seed


def _numpy(module: Any, seed: int) -> None:
    module.seed(seed & 0xFFFFFFFF)


def _paddle(module: Any, seed: int) -> None:
    if hasattr(module, "seed"):  # absent while Paddle is still being imported
        module.seed(seed & 0x7FFFFFFF)


_SOWERS: dict[str, Callable[[Any, int], None]] = {"numpy.random": _numpy, "paddle": _paddle}


class _Watch:
    """Seeds a library that a member imports for the first time: its generator was not there when the member began."""

    seed: int | None = None

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _SOWERS:
            return None
        for finder in sys.meta_path:
            spec = None if finder is cls else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                _seed_after(spec.loader, name)
                return spec
        return None


def _seed_after(loader: Any, name: str) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        if _Watch.seed is not None:
            _SOWERS[name](module, _Watch.seed)

    loader.exec_module = exec_module


def watch_imports() -> None:
    """Let libraries that are imported from now on start with the current member's seed (workers only)."""
    sys.meta_path.insert(0, _Watch)


@contextmanager
def sown(seed: int | None) -> Iterator[None]:
    """Run a block under a seed and give the process its own random state back (the inline backend)."""
    if seed is None:
        yield
        return
    state = random.getstate()
    numpy_random: Any = sys.modules.get("numpy.random")
    numpy_state = numpy_random.get_state() if numpy_random else None
    sow(seed)
    try:
        yield
    finally:
        random.setstate(state)
        if numpy_random:
            numpy_random.set_state(numpy_state)
