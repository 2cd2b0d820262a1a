"""``half_async``: a trainer adds up the rows' gradients of ``merge_steps`` steps and sends them as one push.

What a pull may miss: what other trainers have not sent yet, and with prefetch=1 this trainer's own last ``merge_steps``
steps. With prefetch=0 a pull first sends what was added up, so it misses nothing of its own. What is waited for: nothing.

The trainer's side is ``session.Session.push``: it sends after every ``merge_steps`` steps, or sooner when it is flushed (a
checkpoint, an evaluation, the end). A merged push is one step of the row optimizer with the sum of the gradients, at the
learning rate of the newest of them. It saves messages and rows (ids that neighbouring batches share travel once) and
pays with fewer, larger steps. Dense parameters on servers are not merged: they go every step.
"""

from __future__ import annotations

from fleet.parameter_server.consistency.async_ import Async


class HalfAsync(Async):
    """The server's side: that of ``async``, for pushes that come merged."""

    NAME = "half_async"
