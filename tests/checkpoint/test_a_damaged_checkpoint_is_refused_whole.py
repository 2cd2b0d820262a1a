"""A newest checkpoint with a damaged file is passed over; if no older one is whole it is refused, and nothing was loaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleet import disk


@pytest.fixture(scope="module")
def saved(checkpoint_pair: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with checkpoints of two trainers alone, tables in two servers' snapshots."""
    from servers import SECRET, Servers

    directory = tmp_path_factory.mktemp("saved")
    with Servers(2, world_size=2) as servers:
        checkpoint_pair.run("checkpoint.jobs:train", world_size=2, servers=servers.addresses, secret=SECRET,
                            directory=str(directory), epochs=2, stop_at=8)  # fmt: skip
    return directory


def files(directory: Path) -> list[str]:
    newest = sorted(p for p in directory.iterdir())[-1]
    return sorted(str(p.relative_to(newest)) for p in newest.rglob("*") if p.is_file())


def damage(path: Path, how: str) -> None:
    body = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(body[: len(body) // 2])
    else:
        body[len(body) // 2] ^= 1
        path.write_bytes(body)


def test_every_file_in_every_way(play: Callable[..., Any], saved: Path, tmp_path: Path, checkpoint_pair: Any) -> None:
    """The newest is passed over, by all trainers; alone on the shelf it is refused, and nothing was loaded."""
    names = files(saved)
    expected = {"manifest.json", "model.pdparams", "optimizer.pdopt", "loader.json", "trainer-0.rng", "trainer-1.rng",
                "tables/manifest.json"}  # fmt: skip
    assert expected <= set(names) and sum(n.endswith(".safetensors") for n in names) == 2
    attempts = [(name, how, older) for older in (False, True) for name in names for how in ("truncated", "flipped", "missing")]
    directories = [str(tmp_path / str(i)) for i in range(len(attempts))]
    for directory, (name, how, older) in zip(directories, attempts, strict=True):
        shutil.copytree(saved, directory, ignore=None if older else shutil.ignore_patterns("step-00000005"))
        damage(Path(directory) / "step-00000006" / name, how)
    for outcomes in play("loads", 2, 2, directories=[*directories, str(saved)]):
        for (error, moved, step), (name, how, older), directory in zip(outcomes[:-1], attempts, directories, strict=True):
            if older:
                assert (error, step) == (None, 5), (name, how, error)
                continue
            assert error and error.startswith("SnapshotError"), (name, how, error)
            assert os.path.basename(name) in error and "fix:" in error and directory in error, (name, how, error)
            assert moved == [], (name, how)
        error, moved, step = outcomes[-1]  # and the servers are as willing as before
        assert error is None and step == 6 and "words.rows" in moved and "loader" in moved
    said = checkpoint_pair.log(0)
    for (name, _, older), directory in zip(attempts, directories, strict=True):
        assert not older or ("a checkpoint is passed over: " in said and f"{directory}/step-00000006" in said), name


def test_a_damaged_one_is_set_aside_by_the_next_save(play: Callable[..., Any], tmp_path: Path) -> None:
    play("train", tables=False, directory=str(tmp_path), stop_at=8)
    (tmp_path / "step-00000006/manifest.json").unlink()
    (done,) = play("train", tables=False, directory=str(tmp_path))
    assert done["steps"] == 10  # from step 5 on
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged-step-00000006", "step-00000012", "step-00000015"]


def test_of_a_newer_version(play: Callable[..., Any], tmp_path: Path) -> None:
    """It is whole, so it is no case for an older one."""
    play("train", tables=False, directory=str(tmp_path), stop_at=8)
    path = tmp_path / "step-00000006/manifest.json"
    manifest = {k: v for k, v in json.loads(path.read_text()).items() if k != "checksum"}
    manifest["format"] = "fleet checkpoint 3"
    path.write_text(json.dumps({**manifest, "checksum": disk.json_checksum(manifest)}))
    (((error, moved, _),),) = play("loads", tables=False, directories=[str(tmp_path)])
    assert "has format 3, this version of fleet reads up to 2" in error and "fix:" in error and moved == []


def test_of_another_model_says_what_differs(play: Callable[..., Any], tmp_path: Path) -> None:
    play("train", tables=False, directory=str(tmp_path), stop_at=8)
    (((error, moved, _),),) = play("loads", tables=False, dim=5, directories=[str(tmp_path)])
    assert "words.weight has shape [30, 4] in the file, [30, 5] in the model" in error and moved == []


@pytest.mark.parametrize("build, words", [
    ({"dim": 5}, "words"),
    ({"open_table": True}, "users"),
    ({"optimizer": "SGD"}, "optimizer"),
])  # fmt: skip
def test_another_model_or_optimizer(play: Callable[..., Any], saved: Path, build: dict[str, Any], words: str) -> None:
    for ((error, moved, _),) in play("loads", trainers=2, servers=2, directories=[str(saved)], **build):
        assert error.startswith("SnapshotError") and words in error and "fix:" in error, error
        assert moved == []


def test_another_optimizer_of_dense_weights(play: Callable[..., Any], tmp_path: Path) -> None:
    play("train", tables=False, directory=str(tmp_path), stop_at=4)
    (((error, moved, _),),) = play("loads", tables=False, optimizer="SGD", directories=[str(tmp_path)])
    assert "the checkpoint is of optimizer Adam, this job has SGD" in error and moved == []


def test_without_the_tables(play: Callable[..., Any], saved: Path) -> None:
    for ((error, moved, _),) in play("loads", trainers=2, tables=False, directories=[str(saved)]):
        assert "the checkpoint has tables on servers, this job is the other way round" in error and moved == []


def test_a_foreign_manifest(play: Callable[..., Any], tmp_path: Path) -> None:
    directories = []
    for i, body in enumerate(("", "[]", "{}", json.dumps({"format": "another 2"}), "\x00\xff")):
        directories.append(str(tmp_path / str(i)))
        (tmp_path / str(i) / "step-00000003").mkdir(parents=True)
        (tmp_path / str(i) / "step-00000003/manifest.json").write_text(body)
    (outcomes,) = play("loads", tables=False, directories=directories)
    for error, moved, _ in outcomes:
        assert error.startswith("SnapshotError") and "fix:" in error and moved == []
