"""Parameter-server training: tables on servers, rows pulled and gradients pushed; and what reads them without servers.

Names are loaded on first use: a server imports this package too, and must not import Paddle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleet.parameter_server.embedding import Embedding
    from fleet.parameter_server.frozen import Frozen
    from fleet.parameter_server.report import stats

__all__ = ["Embedding", "Frozen", "stats"]


def __getattr__(name: str) -> Any:
    if name == "Embedding":
        from fleet import paddle_wheel

        paddle_wheel.load("fleet.parameter_server.Embedding")
        from fleet.parameter_server.embedding import Embedding

        return Embedding
    if name == "Frozen":
        from fleet.parameter_server.frozen import Frozen

        return Frozen
    if name == "stats":
        from fleet.parameter_server.report import stats

        return stats
    raise AttributeError(f"module 'fleet.parameter_server' has no attribute {name!r}")
