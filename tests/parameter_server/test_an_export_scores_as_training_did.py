"""fleet.export and Frozen: the scores are the training process's own, to the bit; two trainers, two servers."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from servers import SECRET, Servers
from trainers import Trainers

from fleet.errors import SnapshotError
from fleet.parameter_server import Frozen


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[Any], list[Any]]]:
    """An export, what each trainer says of its scores, and what each says of Frozen's."""
    directory = tmp_path_factory.mktemp("export") / "served"
    with Trainers(2, init=False) as trainers, Servers(2, world_size=2) as servers:
        trained = trainers.run("parameter_server.export_jobs:train_and_export", directory=str(directory), servers=servers.addresses,
                               secret=SECRET)  # fmt: skip
        yield directory, trained, trainers.run("parameter_server.export_jobs:score", directory=str(directory))


def test_scores_are_the_same_bits(exported: tuple[Path, list[Any], list[Any]]) -> None:
    _, trained, scored = exported
    for rank in (0, 1):
        for seed in (1, 99):
            for expected, found in zip(trained[rank]["scores"][seed], scored[rank][seed], strict=True):
                np.testing.assert_array_equal(found, expected)
    assert len(trained[0]["scores"][1]) == 2 and np.ptp(trained[0]["scores"][1][0]) > 0.01


def test_training_goes_on(exported: tuple[Path, list[Any], list[Any]]) -> None:
    assert [t["goes on"] for t in exported[1]] == [True, True]


def test_no_trace_beside_it(exported: tuple[Path, list[Any], list[Any]]) -> None:
    directory = exported[0]
    assert [p.name for p in directory.parent.iterdir()] == ["served"]
    assert {p.name for p in directory.iterdir()} == {"manifest.json", "tables", "dense.json", "dense.pdiparams", "ids.json"}


def test_rows_need_no_paddle(exported: tuple[Path, list[Any], list[Any]]) -> None:
    frozen = Frozen(str(exported[0]))
    kept = {name: table.dtype for name, table in frozen.tables.items()}
    assert kept == {"words": "bfloat16", "users": "float32", "bags": "float16"}  # as the tables store them
    assert frozen.tables["users"].num_rows == 40 and frozen.tables["users"].rows([[1, 2], [3, 39]]).shape == (2, 2, 4)


@pytest.mark.parametrize("name", ["dense.json", "dense.pdiparams", "tables/words.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_a_damaged_file_is_named(exported: tuple[Path, list[Any], list[Any]], tmp_path: Path, name: str, damage: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported[0], copy)
    path = copy / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "cut" else data[:-40] + bytes([data[-40] ^ 1]) + data[-39:])
    with pytest.raises(SnapshotError) as raised:
        Frozen(str(copy), verify=True)
    assert raised.value.at == str(path)


def test_an_edited_manifest(exported: tuple[Path, list[Any], list[Any]], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported[0], copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["tables"]["users"]["spec"]["seed"] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SnapshotError, match="was changed"):
        Frozen(str(copy))
    (copy / "manifest.json").write_text("{")
    with pytest.raises(SnapshotError, match="cannot be read"):
        Frozen(str(copy))
    (copy / "manifest.json").unlink()
    with pytest.raises(SnapshotError, match="no export"):
        Frozen(str(copy))
