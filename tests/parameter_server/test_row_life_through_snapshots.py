"""Row life comes back: a job that stops and loads a chain goes on as if it had never stopped; what was evicted stays gone."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from servers import spec

from fleet.parameter_server.client import Client, RowGradient
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.link import LocalLink
from fleet.parameter_server.row_life import Life, of
from fleet.parameter_server.service import Service
from fleet.parameter_server.snapshot import manifest as manifests
from fleet.parameter_server.snapshot import trainer
from fleet.parameter_server.snapshot.__main__ import main

NUM_KEYS = 600
EVERY = np.arange(NUM_KEYS, dtype=np.uint64)
LIVES = {
    "count": of(admission={"by": "count", "count": 9}),
    "probability": of(admission={"by": "probability", "probability": 0.05}),
    "score": of(admission={"by": "score", "score": 6, "nonclick": 0.5, "click": 1}),
    "age": of(eviction={"by": "age", "steps": 5}),
    "count and age": of(admission={"by": "count", "count": 4}, eviction={"by": "age", "steps": 6}),
    "probability and decay": of(admission={"by": "probability", "probability": 0.2},
                                eviction={"by": "score", "every": 3, "below": 0.6, "decay": 0.5, "age": 4}),
    "score and decay": of(admission={"by": "score", "score": 4, "nonclick": 0.5, "click": 1},
                          eviction={"by": "score", "every": 3, "below": 0.6, "decay": 0.5, "age": 4, "nonclick": 0.5, "click": 1}),
}  # fmt: skip
INCARNATIONS = itertools.count(1)  # a trainer that loads is another one than the one that saved: its pushes count


class Job:
    """Servers in this process; step ``n`` looks up and pushes the same ids in every run."""

    def __init__(self, num_servers: int, life: Life) -> None:
        self.services = [Service(i, num_servers, 1) for i in range(num_servers)]
        links = [LocalLink(service, next(INCARNATIONS)) for service in self.services]
        self.client = Client(links, Mode("sync", 0), 20)
        self.table = self.client.open(spec(dim=2, optimizer="adagrad", life=life))

    def step(self) -> bytes:
        """Take a step; return the rows that it looked up."""
        number = self.client.step + 1
        ids = np.random.default_rng(number).zipf(1.25, 160) % NUM_KEYS
        (pulled,) = self.client.pull([(self.table, ids.astype(np.uint64))], create=True).result(20)
        shows = 1 + (pulled.keys + np.uint64(number)) % np.uint64(3)
        sightings = np.stack([shows, (pulled.keys % np.uint64(5) == 0) * shows])[: self.table.spec.life.num_sightings]
        values = np.sin(pulled.keys[:, None] + np.arange(2) + number).astype(np.float32)
        seen = sightings.astype(np.uint32) if len(sightings) else None
        self.client.push([(self.table, RowGradient(pulled.keys, pulled.counts, values, seen))], 0.1)
        self.client.flush()
        return pulled.rows[pulled.inverse].tobytes()

    def keys(self) -> list[int]:
        return sorted(key for service in self.services for key in service.tables.rows[0].keys().tolist())

    def waiting(self) -> int:
        return sum(service.tables.rows[0].life_counts()["waiting"] for service in self.services)

    def shrink(self) -> None:
        """Take the memory of all that has expired, which the sweep does later and nobody can see."""
        for service in self.services:
            service.tables.rows[0].shrink(0.0)

    def end(self) -> tuple[list[int], int, bytes]:
        self.shrink()
        return self.keys(), self.waiting(), self.client.read(self.table, EVERY).tobytes()

    def load(self, directory: Path) -> None:
        self.client.restart(trainer.load(self.client, str(directory)).manifest["step"])


def train_and_save(job: Job, directory: Path, deltas: bool, stops: tuple[int, ...] = (10, 14, 15, 20)) -> list[Path]:
    """Train, and save at some steps; return the snapshots, the oldest first."""
    found: list[Path] = []
    parent = None
    for number, stop in enumerate(stops):
        while job.client.step < stop:
            job.step()
        found.append(directory / str(number))
        link = trainer.save(job.client, str(found[-1]), parent, delta=deltas and number > 0)
        parent = manifests.parent_of(link)
    return found


@pytest.mark.parametrize("deltas, servers", [(False, (2, 2)), (True, (2, 2)), (True, (2, 3)), (True, (3, 1))])
@pytest.mark.parametrize("name", LIVES)
def test_a_run_that_stops_and_goes_on(name: str, deltas: bool, servers: tuple[int, int], tmp_path: Path) -> None:
    job, again = Job(servers[0], LIVES[name]), Job(servers[1], LIVES[name])
    newest = train_and_save(job, tmp_path, deltas)[-1]
    again.step()  # what was there is replaced
    again.load(newest)
    assert again.keys() == job.keys() and again.waiting() == job.waiting()
    for _ in range(25):
        assert again.step() == job.step()
    assert again.end() == job.end()
    counts = [service.tables.rows[0].life_counts() for service in job.services]
    assert not LIVES[name].evicts or sum(c["evicted"] for c in counts) > 20  # it was about something


@pytest.mark.parametrize("life", [of(eviction={"by": "age", "steps": 4}), of(eviction={"by": "capacity", "rows": 150})])
def test_deltas_of_a_table_that_evicts(life: Life, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every link loads to the rows that lived at its moment; the commands know what was removed."""
    job = Job(2, life)
    lived: list[list[int]] = []
    found: list[Path] = []
    parent = None
    for number in range(5):
        for _ in range(4):
            job.step()
        found.append(tmp_path / f"step-{number + 1:08d}" / "tables")
        parent = manifests.parent_of(trainer.save(job.client, str(found[-1]), parent, delta=number > 0))
        lived.append(job.keys())
    parts = [part for path in found[1:] for part in manifests.read(str(path)).manifest["tables"]["t"]["parts"]]
    assert not any(part["complete"] for part in parts) and sum(part["removed"]["rows"] for part in parts) > 100
    for path, keys in zip(found, lived, strict=True):
        for num_servers in (1, 2, 3):
            again = Job(num_servers, life)
            again.load(path)
            again.load(path)  # twice changes nothing
            assert again.keys() == keys
    assert main(["verify", str(tmp_path)]) == 0
    assert main(["merge", str(tmp_path), "--to", str(tmp_path / "merged")]) == 0
    capsys.readouterr()
    assert main(["diff", str(tmp_path), str(tmp_path / "merged")]) == 0
    assert f"t: 0 rows only in A, 0 only in B, 0 changed, {len(lived[-1])} equal" in capsys.readouterr().out
    assert main(["diff", str(found[-2].parent), str(tmp_path / "merged")]) == 1
    only = [len(set(a) - set(b)) for a, b in ((lived[-2], lived[-1]), (lived[-1], lived[-2]))]
    assert f"t: {only[0]} rows only in A, {only[1]} only in B" in capsys.readouterr().out
    merged = Job(2, life)
    merged.load(tmp_path / "merged")
    assert merged.keys() == lived[-1]


def test_capacity_goes_on_below_its_limit(tmp_path: Path) -> None:
    """Which rows are drawn depends on their order in memory, which a snapshot does not keep; everything else holds."""
    life = of(eviction={"by": "capacity", "rows": 150})
    job, again = Job(2, life), Job(2, life)
    again.load(train_and_save(job, tmp_path, True)[-1])
    assert again.keys() == job.keys()
    for _ in range(20):
        assert again.step() and len(again.keys()) <= 150


def test_ids_that_wait_are_merged_compared_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    life = LIVES["count and age"]
    job = Job(2, life)
    *_, before, newest = train_and_save(job, tmp_path, True)
    assert job.waiting() > 50 and main(["merge", str(newest), "--to", str(tmp_path / "merged")]) == 0
    assert main(["diff", str(newest), str(tmp_path / "merged")]) == 0 and main(["verify", str(tmp_path / "merged")]) == 0
    again = Job(3, life)
    again.load(tmp_path / "merged")
    for _ in range(10):
        assert again.step() == job.step()
    capsys.readouterr()
    assert main(["diff", str(before), str(newest)]) == 1 and "ids wait in A" in capsys.readouterr().out
    (file,) = [p for p in newest.rglob("*-waiting.safetensors") if "0001" in p.name]
    file.unlink()
    assert main(["verify", str(newest)]) == 1 and file.name in capsys.readouterr().out


def test_a_server_that_knows_nothing_of_the_parent_writes_all_rows(tmp_path: Path) -> None:
    """As after a restart: what was evicted since is not known, so the delta needs no list."""
    life = LIVES["age"]
    job = Job(2, life)
    parent = manifests.parent_of(manifests.read(str(train_and_save(job, tmp_path, True)[-1])))
    job.services[1]._saver._known.clear()
    for _ in range(8):
        job.step()
    trainer.save(job.client, str(tmp_path / "next"), parent, delta=True)
    first, second = json.loads((tmp_path / "next" / "manifest.json").read_text())["tables"]["t"]["parts"]
    assert (first["complete"], second["complete"]) == (False, True) and second["removed"] is None
    again = Job(1, life)
    again.load(tmp_path / "next")
    assert again.keys() == job.keys()
