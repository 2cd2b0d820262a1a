"""A cut falls between two pushes, never into one: whoever saves waits until the push under way has reached all of its tables."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from servers import spec

from fleet.parameter_server.client import Client, RowGradient
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.link import LocalLink
from fleet.parameter_server.service import Service
from fleet.parameter_server.snapshot import trainer

KEYS = np.arange(30, dtype=np.uint64)
COUNTS = np.array([30])  # of each server
GRADIENT = np.ones((30, 4), np.float32)


class Watched:
    """A lock that tells when somebody waits for it."""

    def __init__(self, waits: threading.Event) -> None:
        self._lock, self._waits = threading.Lock(), waits

    def acquire(self) -> bool:
        if not self._lock.acquire(blocking=False):
            self._waits.set()
            self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def test_a_push_that_has_reached_one_of_two_tables(tmp_path: Path) -> None:
    service = Service(0, 1, 1)
    clients = [Client([LocalLink(service, 1)], Mode("async", 0), 20) for _ in range(2)]  # one pushes, one saves
    pushes, saves = clients
    tables = [[client.open(spec(name)) for name in ("a", "b")] for client in clients][0]
    half, saver_is_there = threading.Event(), threading.Event()
    service.tables._turn[0] = Watched(saver_is_there)  # type: ignore[assignment]
    apply = service.tables.apply

    def apply_and_pause(gradient: Any, step: int, origin: str) -> None:
        """Between the two tables, wait until the snapshot has been cut or is waiting for its turn."""
        if gradient.table == 1:
            half.set()
            assert saver_is_there.wait(20)
        apply(gradient, step, origin)

    service.tables.apply = apply_and_pause  # type: ignore[method-assign]
    begin = service._saver.begin

    def begin_and_tell(*arguments: Any) -> dict[str, Any]:
        try:
            return begin(*arguments)
        finally:
            saver_is_there.set()

    service._saver.begin = begin_and_tell  # type: ignore[method-assign]

    def push() -> None:
        pushes.push([(table, RowGradient(KEYS, COUNTS, GRADIENT)) for table in tables], 1.0)
        pushes.flush()

    pusher = threading.Thread(target=push)
    pusher.start()
    assert half.wait(20)
    link = trainer.save(saves, str(tmp_path / "cut"))
    pusher.join(20)
    assert not pusher.is_alive()
    again = Client([LocalLink(Service(0, 1, 1), 2)], Mode("async", 0), 20)
    mine = [again.open(spec(name)) for name in ("a", "b")]
    trainer.load(again, str(tmp_path / "cut"))
    sequence = link.manifest["applied"][0].get("0", [0, 0])[1]
    for table in mine:  # rows begin at 1 and fall by 1 a push: both tables have had it, and the manifest says that it counted
        assert (again.read(table, KEYS) == 1.0 - sequence).all() and sequence == 1
