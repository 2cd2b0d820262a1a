"""The beginning and the end of the outermost backward pass, which Paddle does not tell anybody.

``core.eager.run_backward`` is wrapped: Paddle's final hook is one-shot, and an inner backward (recompute, PyLayer) consumes it.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from fleet.errors import ConfigError


class Outermost:
    """Call ``begin(tensors)`` and ``end()`` around every outermost backward of this process; ``abort()`` if it raised.

    ``tensors`` are those that it begins from.

    Raises:
        ConfigError: somebody watches the passes already.
    """

    def __init__(self, begin: Callable[[Any], None], end: Callable[[], None], abort: Callable[[], None]) -> None:
        import paddle

        self.active = False  # inside the outermost backward
        self.alive, self.quiet = True, False
        self._engine = paddle.base.core.eager
        if hasattr(self._engine.run_backward, "outermost"):
            fix = "give fleet.distributed_model one model that holds all that is trained, for example a paddle.nn.LayerList"
            raise ConfigError("a second reducer in one process", at="fleet.distributed_model()", fix=fix)
        self.run_backward = self._engine.run_backward  # Paddle's own: what is run by it is not seen here
        self._begin, self._end, self._abort = begin, end, abort
        self._engine.run_backward = self._wrapped()
        mine = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forget(mine()))

    @contextlib.contextmanager
    def unseen(self) -> Iterator[None]:
        """Let a backward inside be nobody's business: no begin, no end, and ``quiet`` says so to hooks on parameters."""
        before, self.active, self.quiet = self.active, True, True
        try:
            yield
        finally:
            self.active, self.quiet = before, False

    def close(self) -> None:
        """Give the engine back."""
        self.alive = False
        if getattr(self._engine.run_backward, "outermost", None) is self:
            self._engine.run_backward = self.run_backward

    def _wrapped(self) -> Callable[..., Any]:
        def run_backward(*args: Any, **kwargs: Any) -> Any:
            if self.active or not self.alive:
                return self.run_backward(*args, **kwargs)
            self._begin(args[0])
            self.active = True
            try:
                self.run_backward(*args, **kwargs)
            except BaseException:
                self._abort()
                raise
            finally:
                self.active = False
            self._end()

        run_backward.outermost = self  # type: ignore[attr-defined]
        return run_backward


def _forget(outermost: Outermost | None) -> None:
    """In a forked child nobody sends: its backwards, if any, are its own."""
    if outermost is not None:
        outermost.alive = False
