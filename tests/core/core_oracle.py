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
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
M1, M2 = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53
OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad", "adam")
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


def apply(optimizer: str, w: F32, s: F32, g: F32, lr: float, step: int, hyper: dict[str, float]) -> None:
    """Update one row in place: weights ``w``, state ``s``."""
    f = np.float32
    rate, n = f(lr), len(w)
    if optimizer == "sgd":
        w -= rate * g
    elif optimizer == "adagrad":
        s += g * g
        w -= rate * g / (np.sqrt(s) + f(hyper.get("epsilon", 1e-6)))
    elif optimizer == "rowwise_adagrad":
        s += sum_of_squares(g) / f(n)
        w -= rate / (np.sqrt(s[0]) + f(hyper.get("epsilon", 1e-6))) * g
    else:
        beta1, beta2 = f(hyper.get("beta1", 0.9)), f(hyper.get("beta2", 0.999))
        power1, power2 = beta1, beta2
        for _ in range(step):  # in float32, and once before the first use, as Paddle's sparse CPU kernel does
            power1, power2 = power1 * beta1, power2 * beta2
        root = np.sqrt(f(1) - power2)
        s[:n] = beta1 * s[:n] + (f(1) - beta1) * g
        s[n:] = beta2 * s[n:] + (f(1) - beta2) * g * g
        scaled = rate * (root / (f(1) - power1))
        w -= scaled * (s[:n] / (np.sqrt(s[n:]) + f(hyper.get("epsilon", 1e-8)) * root))


def table(dim: int = 4, optimizer: str = "adagrad", **changes: Any) -> Any:
    """Return a core.Table with small defaults."""
    given: dict[str, Any] = dict(
        dim=dim, optimizer=optimizer, hyper={}, initializer="uniform", init_args=(-0.5, 0.5), seed=7, salt=11, stripes=16
    )
    return core.Table(**{**given, **changes})


def pulled(rows: Any, ids: U64, create: bool = False) -> F32:
    out = np.full((len(ids), rows.dim), np.nan, np.float32)
    rows.pull(ids, out, create)
    return out


def random_ids(n: int, seed: int = 0) -> U64:
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


def random_floats(*shape: int, seed: int = 1) -> F32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
