"""A cut holds all rows as they were at one moment, however they change while it is written; a delta holds what changed since."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_oracle import core, pulled, random_floats, random_ids, save, table
from hypothesis import given, settings
from hypothesis import strategies as st


def contents(rows: Any) -> tuple[list[int], bytes, bytes]:
    """Return keys in order, weights and state."""
    keys = np.sort(rows.keys())
    _, weights, state = rows.read(keys)
    return keys.tolist(), weights.tobytes(), state.tobytes()


def loaded(*newest_first: list[dict[str, Any]]) -> Any:
    rows = table(6)
    loading = core.Load(rows, np.ones(1024, np.bool_))
    for files in newest_first:
        for file in files:
            loading.rows(file["path"], file["checksums"])
    return rows


@pytest.fixture
def little_side_memory() -> Iterator[None]:
    core.set_side_memory(bytes=1 << 20)
    yield
    core.set_side_memory()


def test_pushes_while_a_cut_is_written(tmp_path: Path, little_side_memory: None) -> None:
    """The copies of changed rows need 20 times the memory that they may have: some wait, all are right."""
    rows, other, ids = table(6), table(6), random_ids(150_000)
    for t in (rows, other):
        t.push(ids, random_floats(len(ids), 6), 0.1, 1)
    expected = contents(rows), contents(other)
    cut = core.Cut([rows, other], [0, 0])
    begun = threading.Event()

    def push(t: Any, part: Any) -> None:
        begun.set()
        fresh = random_ids(1000, seed=int(part[0] % 1000))
        for chunk in np.array_split(part, 40):
            t.push(chunk, np.ones((len(chunk), 6), np.float32), 0.5, 2)
            t.push(fresh, np.ones((1000, 6), np.float32), 0.5, 2)

    threads = [threading.Thread(target=push, args=(t, part)) for t in (rows, other) for part in np.array_split(ids, 2)]
    for thread in threads:
        thread.start()
    begun.wait()
    files = cut.write([str(tmp_path / "rows"), str(tmp_path / "other")], 0, 1024)
    for thread in threads:
        thread.join()
    for found, wanted in zip(files, expected, strict=True):
        assert contents(loaded(found)) == wanted
    del cut
    for t, found, name in ((rows, files[0], "rows"), (other, files[1], "other")):  # everything changed: so the delta holds it all
        assert contents(loaded(save(t, tmp_path / f"{name}-delta", after=1), found)) == contents(t)


def test_a_delta_holds_what_changed(tmp_path: Path) -> None:
    rows, ids = table(6), random_ids(10_000)
    rows.push(ids, random_floats(10_000, 6), 0.1, 1)
    cut = core.Cut([rows], [0])
    full, (until,) = cut.write([str(tmp_path / "full")], 0, 1024)[0], cut.until
    del cut
    assert save(rows, tmp_path / "nothing", after=until) == []
    rows.push(ids[:100], random_floats(100, 6), 0.1, 2)
    pulled(rows, random_ids(50, seed=9), create=True)
    pulled(rows, ids, create=True)  # reading changes nothing
    delta = save(rows, tmp_path / "delta", after=until)
    assert sum(file["rows"] for file in delta) == 150
    touched = 150 * rows.row_bytes
    assert sum(file["bytes"] for file in delta) < 1.2 * touched
    assert contents(loaded(delta, full)) == contents(rows)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["push", "pull", "save", "full"]), st.integers(0, 2**32)), max_size=25))
def test_a_chain_equals_the_table(tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int]]) -> None:
    directory = tmp_path_factory.mktemp("chain")
    rows = table(6)
    chain: list[list[dict[str, Any]]] = []
    until = 0
    for i, (what, seed) in enumerate([*operations, ("save", 0)]):
        ids = np.unique(random_ids(20, seed) % np.uint64(200))
        if what == "push":
            rows.push(ids, random_floats(len(ids), 6, seed=seed), 0.1, i + 1)
        elif what == "pull":
            pulled(rows, ids, create=True)
        else:
            cut = core.Cut([rows], [0 if what == "full" else until])
            files = cut.write([str(directory / str(i))], 0, 1024)[0]
            chain = [files] if what == "full" or until == 0 else [files, *chain]
            (until,) = cut.until
            del cut
    assert contents(loaded(*chain)) == contents(rows)
    assert contents(loaded(*chain, *chain)) == contents(rows)  # replayed, it changes nothing


def test_one_cut_at_a_time(tmp_path: Path) -> None:
    rows = table(6)
    cut = core.Cut([rows], [0])
    with pytest.raises(ValueError, match="is being written"):
        core.Cut([table(6), rows], [0, 0])
    del cut
    core.Cut([rows], [0])


def test_cancelling(tmp_path: Path) -> None:
    rows = table(6)
    pulled(rows, random_ids(1000), create=True)
    cut = core.Cut([rows], [0])
    cut.cancel()
    with pytest.raises(ValueError, match="given up by who asked"):
        cut.write([str(tmp_path / "a")], 0, 1024)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_hold_nan_are_not_saved(tmp_path: Path) -> None:
    rows, ids = table(6), random_ids(100)
    rows.assign(ids, np.full((100, 6), 1e38, np.float32))
    rows.push(ids[:3], np.full((3, 6), -1e38, np.float32), 3e38, 1)  # an infinite weight by a finite gradient
    with pytest.raises(ValueError, match="NaN or infinite values in the (weights|state) of its rows"):
        save(rows, tmp_path / "a")
    assert list(tmp_path.iterdir()) == [] and rows.size == 100


def test_epochs_that_are_used_up_begin_anew(tmp_path: Path) -> None:
    rows, ids = table(6), random_ids(100)
    rows.push(ids, random_floats(100, 6), 0.1, 1)
    for _ in range(65_533):
        core.Cut([rows], [0])
    rows.push(ids[:10], random_floats(10, 6), 0.1, 2)
    assert rows.num_restarts == 0
    assert core.Cut([rows], [0]).until == [65_534]
    assert rows.num_restarts == 1  # a delta of what was cut before is not known any more
    cut = core.Cut([rows], [0])
    assert cut.until == [2]
    full = cut.write([str(tmp_path / "full")], 0, 1024)[0]
    del cut
    rows.push(ids[5:15], random_floats(10, 6), 0.1, 3)
    delta = save(rows, tmp_path / "delta", after=2)
    assert sum(file["rows"] for file in delta) == 10
    assert contents(loaded(delta, full)) == contents(rows)


def test_a_disk_that_hangs_does_not_stop_training(tmp_path: Path) -> None:
    """The file is a pipe that nobody reads: the snapshot is given up, the pushes that waited go on."""
    rows, ids = table(2000, "sgd"), random_ids(1_200)
    pulled(rows, ids, create=True)
    os.mkfifo(tmp_path / "a-00000.safetensors")
    core.set_side_memory(bytes=1 << 19, patience_s=0.3)
    failures: list[str] = []
    cuts = [core.Cut([rows], [0])]

    def write() -> None:
        try:
            cuts.pop().write([str(tmp_path / "a")], 0, 1024, file_bytes=1 << 20)
        except (ValueError, OSError) as error:
            failures.append(str(error))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        took = []
        for chunk in np.array_split(ids, 30):
            began = time.monotonic()
            rows.push(chunk, np.ones((len(chunk), 2000), np.float32), 0.1, 1)
            took.append(time.monotonic() - began)
        assert 0.3 <= max(took) < 10 and sum(t > 0.3 for t in took) == 1  # it waited once, then no more
    finally:
        core.set_side_memory()
        with open(tmp_path / "a-00000.safetensors", "rb"):
            writer.join(20)
    assert not writer.is_alive() and failures
    (tmp_path / "a-00000.safetensors").unlink(missing_ok=True)
    assert sum(file["rows"] for file in save(rows, tmp_path / "again")) == 1_200
