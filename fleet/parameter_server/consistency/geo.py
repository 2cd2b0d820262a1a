"""``geo``: trainers work on local copies of the rows and exchange differences every ``k_steps``, in the background.

What a pull may miss: what other trainers did since they last sent their differences (up to ``k_steps`` of each), and what
arrived since this trainer fetched the row, at its first use in these ``k_steps``. Its own steps it never misses (with
prefetch=1 the last one). What is waited for: nothing.

The trainer's side is ``local_copies.LocalCopies``. The local gradient is the trainer's own mean; the row optimizer and its
state are local, whatever they are. After ``k_steps`` a trainer sends, for each row it moved, how far, divided by the number of
trainers, and the server adds it: so the rows on the servers move by the mean of what the trainers did, each with its part of
the global batch, and the sum of what was sent is what they hold. Then the trainer forgets its copies and fetches rows anew as
it needs them; row state stays. An evaluation with more than one trainer exchanges first: what it looks at are the servers' rows.

Source: elastic and local updates, Zhang et al., Deep learning with Elastic Averaging SGD, NIPS 2015, in the form that the original
calls GEO-SGD; there the copies were never renewed whole, and SGD was the only optimizer.
"""

from __future__ import annotations

from fleet.parameter_server.consistency.async_ import Async


class Geo(Async):
    """The server's side: that of ``async``, for differences that are added as they arrive."""

    NAME = "geo"
