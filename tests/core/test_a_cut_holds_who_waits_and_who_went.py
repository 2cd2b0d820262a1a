"""A cut of a table with row life: the ids that wait as they were at its moment; for a delta the keys that lost their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_oracle import core
from life_oracle import table
from safetensors.numpy import load_file

COUNT: dict[str, float] = {"admission": 1, "admit_count": 4, "age_steps": 8}


def push(rows: Any, ids: range, step: int) -> None:
    keys = np.arange(ids.start, ids.stop, dtype=np.uint64)
    rows.push(keys, np.full((len(keys), rows.dim), 0.125, np.float32), 1.0, step)


def written(cut: Any, prefix: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {"rows": [], "removed": [], "waiting": []}
    for file in cut.write([str(prefix)], 0, 1024)[0]:
        found[file["holds"]].append(file)
    return found


def loaded(life: dict[str, float], *newest_first: dict[str, list[dict[str, Any]]]) -> Any:
    rows = table(life)
    load = core.Load(rows, np.ones(1024, np.bool_))
    for i, files in enumerate(newest_first):
        load.next_snapshot()
        for kind in ("rows", "removed", "waiting") if i == 0 else ("rows", "removed"):
            for file in files[kind]:
                getattr(load, kind)(file["path"], file["checksums"], (0, 1024), file["rows"])
    return rows


def test_ids_that_wait_are_those_of_the_cut(tmp_path: Path) -> None:
    """After the cut some are admitted, some counted on, some come, all are forgotten: none of it is in the file."""
    rows = table(COUNT)
    push(rows, range(0, 3000), 1)
    push(rows, range(0, 2000), 2)
    push(rows, range(0, 1000), 3)
    rows.step = 3
    first, second = core.Cut([rows], [0]), None
    push(rows, range(0, 1000), 4)  # admitted
    push(rows, range(1000, 2000), 5)  # counted
    push(rows, range(3000, 90_000), 6)  # come: the indices grow and entries move
    push(rows, range(500_000, 500_001), 60)  # forgotten
    rows.shrink(0.0)
    found = written(first, tmp_path / "a")
    del first
    waiting = load_file(found["waiting"][0]["path"])
    assert found["rows"] == [] and len(waiting["hashes"]) == len(set(waiting["hashes"].tolist())) == 3000
    assert sorted(waiting["counts"].tolist()) == [1] * 1000 + [2] * 1000 + [3] * 1000
    again = loaded(COUNT, found)
    again.step = 3
    assert again.life_counts()["waiting"] == 3000 and again.size == 0
    push(again, range(0, 3000), 4)
    assert sorted(again.keys().tolist()) == list(range(1000)) and again.life_counts()["waiting"] == 2000
    second = core.Cut([rows], [0])  # what was kept for the first is not in the way of the next
    assert len(load_file(written(second, tmp_path / "b")["waiting"][0]["path"])["hashes"]) == rows.life_counts()["waiting"]


def test_a_delta_names_the_keys_that_went(tmp_path: Path) -> None:
    life: dict[str, float] = {"age_steps": 3}
    rows = table(life)
    push(rows, range(0, 1000), 1)
    cut = core.Cut([rows], [0])
    full, (until,) = written(cut, tmp_path / "full"), cut.until
    del cut
    for step in range(2, 12):
        push(rows, range(900, 1100), step)
    rows.shrink(0.0)
    push(rows, range(0, 5), 12)  # gone and back
    cut = core.Cut([rows], [until])
    push(rows, range(2000, 2001), 40)  # all others have expired: not in this cut
    rows.shrink(0.0)
    delta = written(cut, tmp_path / "delta")
    assert cut.after == [until] and sum(f["rows"] for f in delta["rows"]) == 205
    gone = load_file(delta["removed"][0]["path"])["keys"].tolist()
    assert gone == sorted(gone) and set(range(5, 900)) <= set(gone) <= set(range(900)) and full["removed"] == []
    for chain in ((delta, full), (delta, full, delta, full)):  # replayed, it changes nothing
        assert sorted(loaded(life, *chain).keys().tolist()) == [*range(5), *range(900, 1100)]
    del cut
    assert rows.keys().tolist() == [2000]


def test_keys_that_went_are_let_go_when_they_outweigh_the_rows(tmp_path: Path) -> None:
    life: dict[str, float] = {"age_steps": 2}
    rows = table(life)
    push(rows, range(0, 100), 1)
    cut = core.Cut([rows], [0])
    (until,) = cut.until
    del cut
    for step in range(2, 130):
        push(rows, range(step * 1000, step * 1000 + 1000), step)
    cut = core.Cut([rows], [until])
    assert cut.after == [0]  # it takes all rows instead
    found, (until,) = written(cut, tmp_path / "whole"), cut.until
    del cut
    assert found["removed"] == [] and sorted(loaded(life, found).keys()) == sorted(rows.keys())
    push(rows, range(0, 10), 131)
    assert core.Cut([rows], [until]).after == [until]  # and deltas of it are known again


@pytest.mark.parametrize("forgets", [False, True])
def test_a_cut_that_was_forgotten_has_no_delta(forgets: bool) -> None:
    rows = table({"age_steps": 2})
    push(rows, range(100), 1)
    (first,) = core.Cut([rows], [0]).until
    (second,) = core.Cut([rows], [0]).until
    if forgets:
        rows.forget_evicted(second)
    assert core.Cut([rows], [first]).after == [0 if forgets else first]
    assert core.Cut([rows], [second]).after == [second]


def test_files_of_ids_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    rows = table(COUNT)
    push(rows, range(50), 1)
    (file,) = written(core.Cut([rows], [0]), tmp_path / "a")["waiting"]
    for life, text in (({"age_steps": 8}, "no id waits"), (COUNT, "manifest says 7")):
        with pytest.raises(ValueError, match=text):
            core.Load(table(life), np.ones(1024, np.bool_)).waiting(file["path"], file["checksums"], (0, 1024), 7)
    load = core.Load(table(COUNT), np.ones(1024, np.bool_))
    load.waiting(file["path"], file["checksums"])
    with pytest.raises(ValueError, match="waits twice"):
        load.waiting(file["path"], file["checksums"])
    with pytest.raises(ValueError, match="makes no sense"):
        core.Load(table(COUNT), np.ones(1024, np.bool_)).waiting(file["path"], file["checksums"], (0, 3))
    with pytest.raises(ValueError, match="of another table"):
        core.Load(table(COUNT, salt=12), np.ones(1024, np.bool_)).waiting(file["path"], file["checksums"])
    with pytest.raises(ValueError, match="not a list of removed keys"):
        core.Load(table(COUNT), np.ones(1024, np.bool_)).removed(file["path"], file["checksums"])
