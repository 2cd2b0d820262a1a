"""How a Paddle initializer gives the values of a table's new rows.

The values of a row come from (seed, table, id) alone, so that they are the same on any server, after any retry, with any
number of servers; only their distribution is the initializer's.
"""

from __future__ import annotations

import math
from typing import Any

from fleet.errors import ConfigError

_AT = "parameter_server.Embedding"


def of(initializer: Any, vocabulary: int, dim: int) -> tuple[str, tuple[float, float]]:
    """Return (name, arguments) of a table's initializer; None is Uniform(-0.01, 0.01).

    Xavier's fans are (vocabulary, dim), as Paddle takes them for the weight of an nn.Embedding, unless the initializer sets them.

    Raises:
        ConfigError: there is none such for tables, or Xavier of an open table without fan_in and fan_out.

    Source: Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010 (Xavier).
    """
    kind = type(initializer).__name__
    if initializer is None:
        return "uniform", (-0.01, 0.01)
    if kind == "Uniform":
        return "uniform", (float(initializer._low), float(initializer._high))
    if kind == "Normal":
        return "normal", (float(initializer._mean), float(initializer._std_dev))
    if kind == "Constant":
        return "constant", (float(initializer._value), 0.0)
    if kind in ("XavierUniform", "XavierNormal"):
        fan_in, fan_out = initializer._fan_in, initializer._fan_out
        if not vocabulary and (fan_in is None or fan_out is None):
            fix = f"give both: {kind}(fan_in=..., fan_out={dim}), or a vocabulary"
            raise ConfigError(f"{kind} of an open table needs fan_in and fan_out: it has no number of rows", at=_AT, fix=fix)
        fans = float(vocabulary if fan_in is None else fan_in) + float(dim if fan_out is None else fan_out)
        gain = float(getattr(initializer, "_gain", 1.0))
        if not fans > 0:
            raise ConfigError(f"{kind} needs fan_in + fan_out > 0, got {fans:g}", at=_AT, fix="give the fans of the layer")
        if kind == "XavierUniform":
            limit = gain * math.sqrt(6.0 / fans)
            return "uniform", (-limit, limit)
        return "normal", (0.0, gain * math.sqrt(2.0 / fans))
    raise ConfigError(f"an initializer {kind} is not in this version of fleet for tables", at=_AT,
                      fix="use paddle.nn.initializer.Uniform, Normal, XavierUniform, XavierNormal or Constant")  # fmt: skip
