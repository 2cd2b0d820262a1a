"""A snapshot taken while trainers push holds, on every server, what some first pushes made of the rows: none in part, none twice.

Each push moves every row of every table by 1, so a row tells how many pushes it has had. The manifest tells the same.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from servers import Servers, spec
from sessions import close, session, step

from fleet.parameter_server.client import Client
from fleet.parameter_server.dense import Dense
from fleet.parameter_server.snapshot import trainer

KEYS = np.arange(40, dtype=np.uint64)
SNAPSHOTS = 4


def snapshots_beside(work: Callable[[], None], client: Client, directory: Path) -> list[Path]:
    """Save at several moments while a thread goes on with ``work``; return the snapshots."""
    going, failed = threading.Event(), []

    def run() -> None:
        try:
            while not going.is_set():
                work()
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    found = []
    for number in range(SNAPSHOTS):
        time.sleep(0.03)
        found.append(directory / str(number))
        trainer.save(client, str(found[-1]))
    going.set()
    thread.join(20)
    assert not thread.is_alive() and not failed, failed
    return found


def counted(client: Client, snapshot: Path) -> list[int]:
    """Load a snapshot; return the sequence of trainer 1 that it has from each server."""
    trainer.load(client, str(snapshot))
    applied = json.loads((snapshot / "manifest.json").read_text())["applied"]
    return [found.get("1", [0, 0])[1] for found in applied]


def rows_by_server(client: Client, name: str, keys: Any, rows: Any = None) -> list[np.ndarray]:
    """Return what each server holds of given rows, or of those that it has: float32[n, dim]."""
    table = client.tables[name]
    rows = client.read(table, keys) if rows is None else rows
    _, inverse, counts = table.unique.unique(keys, client.server_of_shard, client.num_servers)
    by_key = np.empty_like(rows)
    by_key[inverse] = rows
    return np.split(by_key, np.cumsum(counts)[:-1])


def test_dense_parameters_and_rows_of_one_push(tmp_path: Path) -> None:
    layer = paddle.nn.Linear(60, 70)  # six blocks on two servers
    for parameter in layer.parameters():
        parameter.set_value(np.ones(parameter.shape, np.float32))
    optimizer = paddle.optimizer.SGD(1.0, parameters=layer.parameters())
    with Servers(2, world_size=2) as servers:
        looks, trains = (session(servers, rank, 2, consistency="async", prefetch=0) for rank in (0, 1))
        table, _ = trains.open(spec()), looks.open(spec())
        dense = Dense(trains, list(layer.named_parameters()), optimizer, 1, 1)
        dense.upload()
        (blocks,) = dense._all
        looks.open(blocks.table.spec)
        before = trains.client._sequence  # of the upload
        filled = np.zeros(blocks.values.shape, bool)  # behind a parameter's end a block stays 0
        for part in blocks.parts:
            filled.reshape(-1)[part.floats] = True
        masks = rows_by_server(looks.client, "@dense", blocks.keys, filled)

        def work() -> None:
            (layer.weight.sum() + layer.bias.sum()).backward()
            dense.collect()
            step(trains, table, KEYS, np.ones((len(KEYS), 4)))
            dense.follow()
            layer.clear_gradients()

        work()
        found = snapshots_beside(work, looks.client, tmp_path)
        for snapshot in found:
            sequences = counted(looks.client, snapshot)
            parts = rows_by_server(looks.client, "@dense", blocks.keys)
            for sequence, rows, block, mask in zip(sequences, rows_by_server(looks.client, "t", KEYS), parts, masks, strict=True):
                assert set(rows.reshape(-1)) == set(block[mask]) == {1.0 - (sequence - before)}
        assert sequence > before + SNAPSHOTS  # it went on meanwhile
        for each in (looks, trains):
            close(each)


def test_exchanges_of_geo(tmp_path: Path) -> None:
    """An exchange is a push per table and server, the first table's first: a table is never behind the one that follows it."""
    with Servers(2, world_size=2) as servers:
        looks, trains = (session(servers, rank, 2, consistency="geo", k_steps=2, prefetch=0) for rank in (0, 1))
        tables = [trains.open(spec(name)) for name in ("a", "b")]
        for name in ("a", "b"):
            looks.open(spec(name))

        def work() -> None:
            for table in tables:
                rows = trains.rows(table, KEYS, True)
                trains.collect(table, rows, np.ones((len(KEYS), 4), np.float32))
            trains.push(1.0)  # two of these in an exchange, by two trainers: 1 each
            trains.clear()

        work()
        for snapshot in snapshots_beside(work, looks.client, tmp_path):
            sequences = counted(looks.client, snapshot)
            parts = [rows_by_server(looks.client, name, KEYS) for name in ("a", "b")]
            for server, (sequence, first, second) in enumerate(zip(sequences, *parts, strict=True)):
                # The first table's pushes are 1, 5, 9... to server 0 and 2, 6... to server 1, the second's two later.
                assert set(first.reshape(-1)) == {1.0 - (sequence + 3 - server) // 4}
                assert set(second.reshape(-1)) == {1.0 - (sequence + 1 - server) // 4}
        assert sequence > SNAPSHOTS
        for each in (looks, trains):
            close(each)
