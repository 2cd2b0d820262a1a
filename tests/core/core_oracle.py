"""What the core computes, once more in NumPy: one value at a time in float32, in the core's order, so that bits can be compared."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet.parameter_server import native

core = native.load()

U64 = NDArray[np.uint64]
F32 = NDArray[np.float32]
MASK = 2**64 - 1
FLOAT_MAX = float(np.finfo(np.float32).max)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
M1, M2 = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53
OPTIMIZERS = tuple(core.row_optimizers())
LEVELS = tuple(core.core_info()["simd_levels"])


def mix64(x: U64) -> U64:
    x = x ^ (x >> np.uint64(33))
    x = x * np.uint64(M1)
    x = x ^ (x >> np.uint64(33))
    x = x * np.uint64(M2)
    return x ^ (x >> np.uint64(33))


def id_of_hash(hashed: int, salt: int) -> int:
    """Return the id whose hash is ``hashed``: mix64 is a bijection."""
    x = hashed
    for factor in (M2, M1):
        x ^= x >> 33
        x = x * pow(factor, -1, 2**64) & MASK
    return x ^ (x >> 33) ^ salt


def initial_bits(ids: U64, dim: int, seed: int, salt: int) -> NDArray[np.uint32]:
    stream = mix64(mix64(np.array([seed], np.uint64)) ^ np.uint64(salt))
    row = mix64(ids + stream)
    pairs = np.arange(1, (dim + 1) // 2 + 1, dtype=np.uint64) * GOLDEN
    bits = mix64(row[:, None] + pairs[None, :])
    halves = np.stack([bits & np.uint64(0xFFFFFFFF), bits >> np.uint64(32)], axis=2).astype(np.uint32)
    return halves.reshape(len(ids), -1)[:, :dim]


def uniform(ids: U64, dim: int, seed: int, salt: int, low: float, high: float) -> F32:
    unit = (initial_bits(ids, dim, seed, salt) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
    return np.float32(low) + (np.float32(high) - np.float32(low)) * unit


def normal(ids: U64, dim: int, seed: int, salt: int, mean: float, std: float) -> F32:
    quantile = NormalDist().inv_cdf
    bits = initial_bits(ids, dim, seed, salt)
    flat = [quantile((int(b) + 0.5) * 2.0**-32) for b in bits.reshape(-1)]
    return np.float32(mean) + np.float32(std) * np.array(flat, np.float32).reshape(bits.shape)


def sum_of_squares(g: F32) -> np.float32:
    """Add 16 partial sums, then join them by halves, as the kernels do on every SIMD level."""
    padded = np.zeros(-(-len(g) // 16) * 16, np.float32)
    padded[: len(g)] = g
    part = np.zeros(16, np.float32)
    for block in padded.reshape(-1, 16):
        part += block * block
    while len(part) > 1:
        part = part[: len(part) // 2] + part[len(part) // 2 :]
    return np.float32(part[0])


def beta_power(beta: np.float32, exponent: int) -> np.float32:
    """Multiply in float32 once a step, as Paddle does."""
    power = beta
    for _ in range(exponent - 1):
        power = power * beta
    return power


def apply(optimizer: str, w: F32, s: F32, g: F32, lr: float, step: int, hyper: dict[str, float]) -> None:
    """Update one row in place: weights ``w``, state ``s`` in blocks of ``len(w)``."""
    f, one = np.float32, np.float32(1)
    c = {name: f(hyper.get(name, default)) for name, (default, _, _) in core.row_optimizers()[optimizer].items()}
    rate, n = f(lr), len(w)
    low, high, decay = f(hyper.get("clip_min", -FLOAT_MAX)), f(hyper.get("clip_max", FLOAT_MAX)), f(hyper.get("l2_decay", 0))
    g = np.clip(g, low, high) + decay * w if {"clip_min", "clip_max", "l2_decay"} & set(hyper) else g
    first, second, third = s[:n], s[n : 2 * n], s[2 * n :]
    if optimizer == "sgd":
        w -= rate * g
    elif optimizer == "momentum":
        s[:] = c["momentum"] * s + g
        w -= rate * (g + c["momentum"] * s if c["nesterov"] else s)
    elif optimizer == "adagrad":
        s += g * g
        w -= rate * g / (np.sqrt(s) + c["epsilon"])
    elif optimizer == "decayed_adagrad":
        s[:] = c["decay"] * s + (one - c["decay"]) * g * g
        w -= rate * g / (np.sqrt(s) + c["epsilon"])
    elif optimizer == "rowwise_adagrad":
        s += sum_of_squares(g) / f(n)
        w -= rate / (np.sqrt(s[0]) + c["epsilon"]) * g
    elif optimizer in ("rmsprop", "rmsprop_centered"):
        first[:] = c["rho"] * first + (one - c["rho"]) * g * g
        spread = first
        if optimizer == "rmsprop_centered":
            third[:] = c["rho"] * third + (one - c["rho"]) * g
            spread = np.maximum(first - third * third, f(0))
        second[:] = c["momentum"] * second + rate * g / np.sqrt(spread + c["epsilon"])
        w -= second
    elif optimizer in ("adam", "adamw"):
        exponent = step if optimizer == "adamw" or c["dense"] else step + 1
        root = np.sqrt(one - beta_power(c["beta2"], exponent))
        if optimizer == "adamw":
            w -= rate * c["weight_decay"] * w
        first[:] = c["beta1"] * first + (one - c["beta1"]) * g
        second[:] = c["beta2"] * second + (one - c["beta2"]) * g * g
        scaled = rate * (root / (one - beta_power(c["beta1"], exponent)))
        w -= scaled * (first / (np.sqrt(second) + c["epsilon"] * root))
    else:
        assert optimizer == "ftrl"
        total = second + g * g
        first += g - (np.sqrt(total) - np.sqrt(second)) / rate * w
        second[:] = total
        divisor = (c["beta"] + np.sqrt(total)) / rate + c["l2"]
        w[:] = np.where(np.abs(first) <= c["l1"], f(0), -(first - np.copysign(c["l1"], first)) / divisor)


def table(dim: int = 4, optimizer: str = "adagrad", **changes: Any) -> Any:
    """Return a core.Table with small defaults."""
    given: dict[str, Any] = dict(
        dim=dim, optimizer=optimizer, hyper={}, initializer="uniform", init_args=(-0.5, 0.5), seed=7, salt=11, stripes=16
    )
    return core.Table(**{**given, **changes})


def save(rows: Any, prefix: object, low: int = 0, high: int = 1024, after: int = 0, **size: int) -> list[dict[str, Any]]:
    """Write the rows that changed after an epoch to files of this prefix; return what describes them."""
    files: list[dict[str, Any]] = core.Cut([rows], [after]).write([str(prefix)], low, high, **size)[0]
    return files


def load(rows: Any, files: list[dict[str, Any]], keep: Any = None, keep_state: bool = True) -> int:
    """Fill a fresh table from files; return how many rows were made."""
    loading = core.Load(rows, np.ones(1024, np.bool_) if keep is None else keep, keep_state)
    return sum(loading.rows(file["path"], file["checksums"]) for file in files)


def pulled(rows: Any, ids: U64, create: bool = False) -> F32:
    out = np.full((len(ids), rows.dim), np.nan, np.float32)
    rows.pull(ids, out, create)
    return out


def random_ids(n: int, seed: int = 0) -> U64:
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


def random_floats(*shape: int, seed: int = 1) -> F32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
