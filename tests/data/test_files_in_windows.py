"""FileLoader: each line once an epoch, in an order of its seed, resumed exactly, shared out over trainers, from any file."""

from __future__ import annotations

import gzip
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet.data import FileLoader, MultiSlot, ShardedLoader, Slot, source
from fleet.errors import ConfigError, PeerLost, SnapshotError

FORMAT = MultiSlot([Slot("id", "int", 1), Slot("words"), Slot("dense", "float", 1)])
BAD = 151  # of the lines below


def write(directory: Path, bad: bool = True) -> int:
    """Write three files, the last one gzipped; line n has n % 4 words."""
    n = 0
    for part in range(3):
        lines = []
        for _ in range(101 + part):
            words = "".join(f" {n * 10 + k}" for k in range(n % 4))
            lines.append("bad line" if bad and n == BAD else f"1 {n} {n % 4}{words} 1 0.5")
            n += 1
        text = ("\n".join(lines) + ("\n" if part else "")).encode()
        (directory / f"part-{part}").write_bytes(gzip.compress(text) if part == 2 else text)
    return n


def ids_of(batches: Any) -> list[int]:
    found: list[int] = []
    for batch in batches:
        ids, (words, lengths) = batch["id"], batch["words"]
        assert lengths.tolist() == (ids % 4).tolist() and batch["dense"].tolist() == [0.5] * len(ids)
        assert words.tolist() == [n * 10 + k for n in ids.tolist() for k in range(n % 4)]
        found += ids.tolist()
    return found


def loader(directory: Path, batch_size: int = 16, **more: Any) -> FileLoader:
    return FileLoader(directory, FORMAT, batch_size, to="numpy", **{"num_readers": 0, **more})


@pytest.mark.parametrize("num_readers", [0, 2])
@pytest.mark.parametrize("block_bytes", [1, 300, 4 << 20])
def test_each_line_once_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, num_readers: int) -> None:
    if block_bytes == 1 and num_readers:
        pytest.skip("the same cuts, slowly")
    monkeypatch.setattr(source, "BLOCK_BYTES", block_bytes)
    n = write(tmp_path)
    expected = [i for i in range(n) if i != BAD]
    assert ids_of(loader(tmp_path, num_readers=num_readers)) == expected
    shuffled = loader(tmp_path, window=50, num_readers=num_readers)
    first, second = ids_of(shuffled), ids_of(shuffled)
    assert sorted(first) == sorted(second) == expected and first != second and first != expected
    assert ids_of(loader(tmp_path, window=50)) == first != ids_of(loader(tmp_path, window=50, seed=1))
    assert len(shuffled) == -(-n // 16)


def test_a_window_bounds_how_far_a_line_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK_BYTES", 100)  # some 5 lines
    write(tmp_path, bad=False)
    order = np.array(ids_of(loader(tmp_path, window=40)))
    moved = np.abs(order - np.arange(len(order)))
    assert 20 < moved.max() < 60 and moved.mean() > 8
    whole = np.array(ids_of(loader(tmp_path, window=10**6)))
    assert np.abs(whole - np.arange(len(whole))).max() > 200


@pytest.mark.parametrize("batch", ["global", "per_trainer"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_shared_out_over_trainers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world_size: int, batch: Any) -> None:
    monkeypatch.setattr(source, "BLOCK_BYTES", 700)
    n = write(tmp_path)
    sizes: list[list[tuple[int, int]]] = [[] for _ in range(world_size)]
    parts, loaders = [], []
    for rank in range(world_size):
        sharded = ShardedLoader(loader(tmp_path, 25, window=60), rank=rank, world_size=world_size, seed=9, batch=batch,
                                on_batch=lambda *counts, rank=rank: sizes[rank].append(counts))  # fmt: skip
        loaders.append(sharded)
        parts.append([ids_of([part]) for part in sharded])
    assert len({len(own) for own in parts}) == 1 and len(parts[0]) == len(loaders[0])
    kept = [[ids for ids, (num, _) in zip(own, counts, strict=True) if num] for own, counts in zip(parts, sizes, strict=True)]
    assert sorted(i for own in kept for ids in own for i in ids) == [i for i in range(n) if i != BAD]
    assert sum(num for counts in sizes for num, _ in counts) == n
    assert all(sum(num for num, _ in step) == step[0][1] for step in zip(*sizes, strict=True))
    if batch == "global":
        together = [[i for own in step for i in own] for step in zip(*parts, strict=True)]
        alone = [ids_of([part]) for part in loader(tmp_path, 25, window=60)]
        assert together[:-1] == alone[:-1] and set(together[-1]) == set(alone[-1])
    else:
        for rank, own in enumerate(parts):
            low, high = rank * n // world_size, (rank + 1) * n // world_size
            assert sorted({i for ids in own for i in ids}) == [i for i in range(low, high) if i != BAD]


@pytest.mark.parametrize("batch", ["global", "per_trainer"])
def test_resumed_where_it_was_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: Any) -> None:
    monkeypatch.setattr(source, "BLOCK_BYTES", 700)
    write(tmp_path)

    def sharded(rank: int = 0) -> ShardedLoader:
        return ShardedLoader(loader(tmp_path, window=60), rank=rank, world_size=2, seed=0, batch=batch, on_batch=lambda *_: None)

    for rank in range(2):
        whole = [[ids_of([part]) for part in one] for one in [sharded(rank)] for _ in range(2)]
        for stop in (1, 4, len(whole[0]), len(whole[0]) + 3):
            first, states = sharded(rank), []
            for _ in range(2):
                for _ in first:
                    states.append(first.state())
            again = sharded(rank)
            again.load(states[stop - 1])
            rest = [ids_of([part]) for part in again] + [ids_of([part]) for part in again] * (stop <= len(whole[0]))
            assert rest == [*whole[0], *whole[1]][stop:]
    alone = loader(tmp_path, window=60)
    next(iter(alone))
    assert loader(tmp_path, window=60).load(alone.state()) is None  # type: ignore[func-returns-value]
    for other in (loader(tmp_path, window=70), loader(tmp_path, window=60, seed=1)):
        with pytest.raises(SnapshotError, match="order|seed"):
            other.load(alone.state())


def test_tensors(tmp_path: Path) -> None:
    write(tmp_path)
    for batch in FileLoader(tmp_path, MultiSlot([Slot("id", "uint64", 1), *FORMAT.slots[1:]]), 512, num_readers=0):  # type: ignore[misc]
        assert isinstance(batch["id"], np.ndarray) and batch["id"].dtype == np.uint64
        values, lengths = batch["words"]
        assert values.shape == [int(lengths.sum())] and lengths.shape == [305] == batch["dense"].shape


def refused(says: str, *arguments: Any, **more: Any) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        list(FileLoader(*arguments, **{"to": "numpy", "num_readers": 0, **more}))
    assert caught.value.at and caught.value.fix


def test_bad_input_ends_with_place_and_remedy(tmp_path: Path) -> None:
    good, bad, empty = tmp_path / "good", tmp_path / "bad", tmp_path / "empty"
    good.write_bytes(b"1 1 0 1 0.5\n" * 20)
    bad.write_bytes(b"1 1 0 1 0.5\n" * 3 + b"2024-01-01 hello\n" * 200)
    empty.mkdir()
    (empty / "part-0").touch()
    refused("no such data file", tmp_path / "nowhere", FORMAT, 8)
    refused("hold no line", empty, FORMAT, 8)
    refused("more than max_bad_lines=100; the first one: its slots", bad, FORMAT, 300)
    refused("more than max_bad_lines=0", bad, FORMAT, 8, max_bad_lines=0)
    refused("batch_size", good, FORMAT, 0)
    refused("window", good, FORMAT, 8, window=-1)
    refused("num_readers", good, FORMAT, 8, num_readers=-1)
    refused("not a format", good, "MultiSlot", 8)
    refused("one of the two|paddle", good, FORMAT, 8, to="torch")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(os.urandom(5000))[:-100])
    refused("cannot be read", tmp_path / "cut.gz", FORMAT, 8)
    with pytest.raises(ConfigError, match="cannot be shared out"):
        list(ShardedLoader(loader(good), rank=0, world_size=21, seed=0, batch="per_trainer", on_batch=lambda *_: None))
    changed = loader(good)
    good.write_bytes(b"1 1 0 1 0.5\n" * 10)
    with pytest.raises(ConfigError, match="changed after its lines were counted"):
        list(changed)


def test_a_reader_process_that_dies_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK_BYTES", 300)
    write(tmp_path)
    passes = iter(loader(tmp_path, num_readers=2))
    next(passes)
    assert len(readers()) == 2
    for child in readers():
        os.kill(child, signal.SIGKILL)
    with pytest.raises(PeerLost, match="reader process"):
        list(passes)
    assert not readers()


def readers() -> list[int]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(child) for child in children if b"fleet.data.worker" in Path(f"/proc/{child}/cmdline").read_bytes()]
