"""A shuffle that can be asked for any place of its order without drawing the others: nothing of the set's size is in memory.

The places 0 to n - 1 go through a Feistel network over the next power of two, keyed by (seed, epoch), again and again until
they land below n (cycle walking: less than two turns on the average). Each round is undone by itself, so the network is a
bijection, and so is its walk on the places below n.

Source: Luby, Rackoff, "How to construct pseudorandom permutations from pseudorandom functions", SIAM J. Comput. 17 (1988);
cycle walking: Black, Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002. The round function is ``mixing.mix``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fleet.data.mixing import mix

Indices = npt.NDArray[np.int64]

NAME = "feistel 1"  # of the order, in a saved position; another network is another name
# Over 2,000 seeds and sets of 3 to 100 samples, who comes where and who follows whom is biased with 6 rounds (chi-square 6
# standard deviations too high for 5 samples), and not with 12.
ROUNDS = 12


class Shuffle:
    """The order of ``num`` samples in one epoch.

    Cost: 0.05 us a place in calls of 16,000, 0.3 us in calls of 1,000.

    Example:
        >>> sorted(Shuffle(5, seed=0, epoch=0).at(np.arange(5)).tolist())
        [0, 1, 2, 3, 4]
    """

    def __init__(self, num: int, seed: int, epoch: int) -> None:
        self._num = np.uint64(num)
        bits = max((num - 1).bit_length(), 2)
        self._low_bits = np.uint64(bits // 2)
        self._masks = [np.uint64((1 << size) - 1) for size in (bits - bits // 2, bits // 2)]  # of the high part, of the low one
        self._keys = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64)

    def at(self, places: Indices) -> Indices:
        """Return the samples at ``places`` of the order, int64[k] each."""
        found = self._turn(places.astype(np.uint64))
        outside = np.flatnonzero(found >= self._num)
        while len(outside):
            walked = self._turn(found[outside])
            found[outside] = walked
            outside = outside[walked >= self._num]
        return found.view(np.int64)

    def _turn(self, x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        high, low = x >> self._low_bits, x & self._masks[1]
        for turn in range(0, ROUNDS, 2):
            high ^= mix(low ^ self._keys[turn]) & self._masks[0]
            low ^= mix(high ^ self._keys[turn + 1]) & self._masks[1]
        turned: npt.NDArray[np.uint64] = (high << self._low_bits) | low
        return turned
