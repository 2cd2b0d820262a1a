"""The one hash of ``fleet.data``: splitmix64's output function.

    z = z + 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    mix(z) = z ^ (z >> 31)

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]


def mix(z: U64) -> U64:
    """Return splitmix64's output function of uint64[...]; ``z`` is overwritten."""
    t = np.empty_like(z)
    z += np.uint64(0x9E3779B97F4A7C15)
    z ^= np.right_shift(z, np.uint64(30), out=t)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= np.right_shift(z, np.uint64(27), out=t)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= np.right_shift(z, np.uint64(31), out=t)
    return z


def remainder(z: U64, span: int) -> U64:
    """Return ``z % span`` of uint64[...]; ``z`` is overwritten.

    3.6 instead of 12.3 ns an element: NumPy divides by a constant with SIMD, and takes remainders one by one.
    """
    by = np.uint64(span)
    z -= (z // by) * by
    return z
