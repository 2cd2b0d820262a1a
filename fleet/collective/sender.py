"""The thread that sends buckets, in the agreed order, while backward goes on.

Gloo blocks inside a call, also with ``sync_op=False``, and so does a meeting; hence a thread. Between buckets it sleeps in a
queue, during a bucket in a socket, in Gloo or in a NumPy sum: never on the interpreter's lock.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from fleet import timeline
from fleet.errors import PeerLost
from fleet.runtime import Runtime


class Parcel(NamedTuple):
    """One meeting, and what adds the bucket up after it if anybody has something to add."""

    where: str
    note: bytes  # what this trainer says at the meeting
    read: Callable[[list[bytes]], tuple[Any, bool]]  # in the sender's thread: notes by rank -> answer, whether to add up
    add_up: Callable[[Any], None] = lambda _: None  # told the answer


class Sender:
    """Sends parcels in the order in which they are posted. ``close`` joins its thread."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._posted: queue.SimpleQueue[Parcel | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="fleet-reducer", daemon=True)
        self._thread.start()

    def post(self, parcel: Parcel) -> None:
        """Queue a parcel; never waits."""
        timeline.mark("post", parcel.where, timeline.now())
        self._posted.put(parcel)

    def answer(self) -> Any:
        """Wait for the next parcel's answer, in order.

        Raises:
            FleetError: what stopped the sender. Nothing can be sent any more.
        """
        began = timeline.now()
        answer = self._answers.get()
        timeline.mark("wait", "gradients", began)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """End the thread. One that is stuck in a meeting is woken by the closing of the channel right after."""
        self._posted.put(None)
        self._thread.join(0.2)

    def _send_all(self) -> None:
        failure: BaseException | None = None
        while True:
            parcel = self._posted.get()
            if parcel is None:
                return
            if failure is None:
                try:
                    self._answers.put(self._send(parcel))
                    continue
                except BaseException as error:  # noqa: BLE001 - raised in the main thread, which waits for an answer
                    failure = error
            self._answers.put(failure)

    def _send(self, parcel: Parcel) -> Any:
        channel = self._runtime.channel
        if channel is None:
            raise PeerLost("the control channel is closed", at=parcel.where, fix="train between fleet.init() and shutdown()")
        began = timeline.now()
        notes = channel.meet(parcel.where, parcel.note, self._runtime.timeout_s)
        timeline.mark("meet", parcel.where, began)
        answer, wanted = parcel.read(notes)
        if wanted:
            began = timeline.now()
            parcel.add_up(answer)
            timeline.mark("send", parcel.where, began)
        return answer
