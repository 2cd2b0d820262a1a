"""A server is light: after it has served every operation, neither Paddle nor a user's script is in its process."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from servers import Servers, spec

from fleet.parameter_server.snapshot import trainer


def test_no_paddle_in_a_server_that_has_worked(tmp_path: Path) -> None:
    with Servers(1, world_size=1) as servers:
        client = servers.client()
        table = client.open(spec())
        ids = np.arange(10, dtype=np.uint64)
        pulled = client.pull([(table, ids)], create=True).result()[0]
        client.assign(table, pulled.keys, pulled.rows)
        trainer.save(client, str(tmp_path))
        maps = Path(f"/proc/{servers.processes[0].pid}/maps").read_text()
        assert "_core." in maps and "paddle" not in maps
        client.close()
        assert servers.processes[0].wait(10) == 0, "it ends once every trainer has ended"
        assert "all trainers have ended" in servers.log()


def test_a_server_starts_in_a_blink() -> None:
    """Importing paddle would cost more than a second; the bound is generous against a busy machine."""
    start = time.monotonic()
    with Servers(1):
        assert time.monotonic() - start < 10
