"""A section's bytes as arrays. Values are float32 on both sides; on the wire they may be rounded to 16 bits, to nearest even."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet.parameter_server import sightings, wire
from fleet.parameter_server.sightings import Sightings


def narrowed(core: Any, values: NDArray[np.float32], dtype: str) -> tuple[NDArray[Any], int]:
    """Return values as ``dtype`` of wire.DTYPES has them (16 bits as uint16), and how many are not finite (0 for float32)."""
    if dtype == "float32":
        return values, 0
    bits = np.empty(values.shape, dtype=np.uint16)
    bad: int = core.narrow(np.ascontiguousarray(values).reshape(-1), bits.reshape(-1), dtype)
    return bits, bad


def widen(core: Any, values: NDArray[Any], out: NDArray[np.float32], dtype: str) -> None:
    """Write what :func:`place_for` received to ``out``."""
    if dtype != "float32":
        core.widen(values.reshape(-1), out.reshape(-1), dtype)


def place_for(out: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Return the array that takes the bytes of ``out`` from the wire: itself, if nothing is to be widened."""
    return out if dtype == "float32" else np.empty(out.shape, dtype=np.uint16)


def rounded(core: Any, values: NDArray[np.float32], dtype: str) -> tuple[NDArray[np.float32], int]:
    """Return values as they come out at the other end of the wire, and how many of them are not finite (0 for float32)."""
    bits, bad = narrowed(core, values, dtype)
    out = values if dtype == "float32" else np.empty(values.shape, dtype=np.float32)
    widen(core, bits, out, dtype)
    return out, bad


def keys_and_values(core: Any, s: wire.Section) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Return ``uint64[n]`` and ``float32[n, dim]`` of a section that came.

    Raises:
        WireError: it lacks one of them.
    """
    if s.keys is None or s.values is None:
        raise wire.WireError(f"table {s.table} comes without keys or values")
    shape = s.num_keys, s.dim
    if s.dtype == "float32":
        return np.frombuffer(s.keys, dtype=np.uint64), np.frombuffer(s.values, dtype=np.float32).reshape(shape)
    out = np.empty(shape, dtype=np.float32)
    widen(core, np.frombuffer(s.values, dtype=np.uint16), out, s.dtype)
    return np.frombuffer(s.keys, dtype=np.uint64), out


def sightings_of(s: wire.Section) -> Sightings | None:
    """Return the sightings that a section carries."""
    return sightings.of_bytes(s.sightings, s.num_sightings, s.num_keys)
