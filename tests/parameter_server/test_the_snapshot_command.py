"""``python -m fleet.parameter_server.snapshot``: lists, checks, compares, merges and exports chains that servers wrote."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import ROOT, spec

from fleet.errors import SnapshotError
from fleet.parameter_server.client import Client, RowGradient, Table
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.link import LocalLink
from fleet.parameter_server.row_life import Life
from fleet.parameter_server.service import Service
from fleet.parameter_server.snapshot import manifest as manifests
from fleet.parameter_server.snapshot import trainer, writing
from fleet.parameter_server.snapshot.__main__ import main

KEYS = np.arange(1, 401, dtype=np.uint64) * np.uint64(2**55 + 1)
SPECS = (spec("users", 4, "adagrad"), spec("items/of shop", 6, "adam", weights="bfloat16", state="bfloat16"))
LIVES = itertools.count(1)  # a trainer that loads is another one than the one that saved: its pushes count


class Job:
    """Servers in this process, and what their tables hold."""

    def __init__(self, num_servers: int = 2, specs: tuple[Any, ...] = SPECS) -> None:
        life = next(LIVES)
        self.client = Client([LocalLink(Service(i, num_servers, 1), life) for i in range(num_servers)], Mode("async", 0), 20)
        self.tables: list[Table] = [self.client.open(s) for s in specs]

    def push(self, keys: Any, seed: int) -> None:
        """Give rows a gradient; those that are not there are made."""
        rng, parts = np.random.default_rng(seed), []
        for table, p in zip(self.tables, self.client.pull([(t, keys) for t in self.tables], create=True).result(20), strict=True):
            values = np.empty_like(p.rows)
            values[p.inverse] = rng.standard_normal(p.rows.shape).astype(np.float32)  # by key, however many servers there are
            parts.append((table, RowGradient(p.keys, p.counts, values)))
        self.client.push(parts, 0.1)
        self.client.flush()

    def contents(self) -> list[bytes]:
        return [self.client.read(table, KEYS).tobytes() for table in self.tables]

    def after(self) -> list[bytes]:
        """What the tables hold after one more step, which depends on row state too. Changes them."""
        self.push(KEYS, 99)
        return self.contents()


def make_chain(directory: Path, num_servers: int = 2) -> Job:
    """Write a full snapshot of 300 rows, then two deltas: 50 rows changed and 50 made, then 20 changed."""
    job = Job(num_servers)
    parent = None
    for i, keys in enumerate((KEYS[:300], KEYS[250:350], KEYS[340:360])):
        job.push(keys, i)
        link = trainer.save(job.client, str(directory / f"step-{i + 1:08d}" / "tables"), parent, delta=i > 0)
        parent = manifests.parent_of(link)
    return job


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes], list[bytes]]:
    """A checkpoint directory with a chain; the rows at its end, and a step later."""
    directory = tmp_path_factory.mktemp("chain")
    job = make_chain(directory)
    before = job.contents()
    return directory, before, job.after()


@pytest.fixture
def chain(made: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "ckpt"))


def tables(directory: Path, step: int) -> Path:
    return directory / f"step-{step:08d}" / "tables"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main([str(a) for a in arguments])
    return status, *capsys.readouterr()


def edit(path: Path, **changes: Any) -> None:
    """Change a manifest and give it the right checksum: a mistake of whoever wrote it, not of a copy."""
    found = {**json.loads((path / "manifest.json").read_text()), **changes}
    found["checksum"] = manifests.checksum_of(found)
    (path / "manifest.json").write_text(json.dumps(found))


def test_ls(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "ls", chain)
    lines = [line.split("  ") for line in out.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert status == 0 and len(cells) == 4
    size = sum(path.stat().st_size for path in tables(chain, 1).rglob("*.safetensors"))
    assert cells[1] == ["step-00000001/tables", "1", "full", "2", "600", str(size), "2"]
    assert cells[2][:5] == ["step-00000002/tables", "2", "delta of step-00000001/tables", "2", "200"]
    assert run(capsys, "ls", chain / "step-00000002")[1].splitlines()[1].startswith("tables ")
    assert run(capsys, "ls", tables(chain, 1))[1].splitlines()[1].startswith(". ")
    (tables(chain, 2) / "manifest.json").write_text("{")
    status, out, _ = run(capsys, "ls", chain)
    assert status == 1 and "the manifest cannot be read" in out and "step-00000003/tables" in out


def test_merge_equals_loading_the_chain(made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    directory, before, after = made
    monkeypatch.setattr(writing, "FILE_BYTES", 2000)  # several files a part
    status, out, error = run(capsys, "merge", directory, "--to", tmp_path / "deep" / "full")
    assert (status, error) == (0, "") and "a full snapshot of step" in out and "720 rows" in out
    assert os.listdir(tmp_path / "deep") == ["full"]
    assert len(list((tmp_path / "deep" / "full").rglob("*.safetensors"))) > 8
    assert run(capsys, "verify", tmp_path / "deep" / "full")[0] == 0
    assert run(capsys, "diff", directory, tmp_path / "deep" / "full")[0] == 0
    for num_servers in (1, 3):
        job = Job(num_servers)
        link = trainer.load(job.client, str(tmp_path / "deep" / "full"))
        assert job.contents() == before
        job.client.step = link.manifest["step"]
        assert job.after() == after  # row state, Adam's bias correction
    status, _, error = run(capsys, "merge", directory, "--to", tmp_path / "deep" / "full")
    assert status == 1 and "there is something here already" in error


def test_merge_of_a_chain_of_several_numbers_of_servers(made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job that resumed on three servers goes on with a delta of what two wrote."""
    job = Job(3)
    base = trainer.load(job.client, str(tables(made[0], 3)))
    job.push(KEYS[100:150], 5)
    trainer.save(job.client, str(tmp_path / "more"), manifests.parent_of(base), delta=True)
    assert run(capsys, "verify", tmp_path / "more")[0] == 0
    assert run(capsys, "merge", tmp_path / "more", "--to", tmp_path / "full")[0] == 0
    again = Job(2)
    trainer.load(again.client, str(tmp_path / "full"))
    assert again.contents() == job.contents()


def test_what_follows_a_load_without_row_state_is_full(made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A delta would continue rows with the state of another row optimizer, and the chain could never be loaded."""
    others = tuple(s._replace(optimizer="sgd", hyper=()) for s in SPECS)
    job = Job(2, others)
    base = trainer.load(job.client, str(tables(made[0], 3)), keep_state=False)
    job.push(KEYS[:10], 5)
    link = trainer.save(job.client, str(tmp_path / "next"), manifests.parent_of(base), delta=True)
    assert link.manifest["parent"] is None and run(capsys, "verify", tmp_path / "next")[0] == 0
    again = Job(1, others)
    trainer.load(again.client, str(tmp_path / "next"))
    assert again.contents() == job.contents()


def test_a_merge_that_fails_leaves_nothing(chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sorted(tables(chain, 1).rglob("*.safetensors"))[-1].unlink()
    status, _, error = run(capsys, "merge", chain, "--to", tmp_path / "out" / "full")
    assert status == 1 and "the file is missing" in error and os.listdir(tmp_path / "out") == []


def test_diff(chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "diff", tables(chain, 1), tables(chain, 2))
    assert status == 1
    for name in ("users", "items/of shop"):
        assert f"{name}: 0 rows only in A, 50 only in B, 50 changed, 250 equal\n" in out
    assert "users: 60 rows only in A, 0 only in B, 50 changed, 250 equal" in run(capsys, "diff", chain, tables(chain, 1))[1]
    assert run(capsys, "diff", chain, tables(chain, 3))[0] == 0
    other = Job(1, (spec("users", 5, "adagrad"),))
    other.push(KEYS[:10], 0)
    trainer.save(other.client, str(tmp_path / "other"))
    out = run(capsys, "diff", chain, tmp_path / "other")[1]
    assert "items/of shop: 360 rows only in A, 0 only in B, 0 changed, 0 equal (only in A)" in out
    assert "users: 350 rows only in A, 0 only in B, 10 changed, 0 equal (dim 4, not 5)" in out


def test_export_to_npz_and_csv(made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(1)
    trainer.load(job.client, str(tables(made[0], 3)))
    for table, name in zip(job.tables, ("users", "items/of shop"), strict=True):
        target = tmp_path / "rows.npz"
        assert run(capsys, "export", made[0], "--table", name, "--to", target, "--state")[0] == 0
        with np.load(target) as found:
            assert sorted(found) == ["keys", "state", "weights"] and sorted(found["keys"]) == sorted(KEYS[:360])
            weights, state, keys = found["weights"], found["state"], found["keys"]
        assert weights.dtype == state.dtype == np.float32 and state.shape == (360, 4 if name == "users" else 12)
        assert weights.tobytes() == job.client.read(table, keys).tobytes()
        assert (state[:, :2] != 0).all()
        assert run(capsys, "export", made[0], "--table", name, "--to", tmp_path / "rows.csv")[0] == 0
        with open(tmp_path / "rows.csv", newline="") as file:
            head, *lines = csv.reader(file)
        assert head == ["key", *(f"weights_{i}" for i in range(weights.shape[1]))]
        assert [int(line[0]) for line in lines] == keys.tolist()
        assert np.array([line[1:] for line in lines], np.float32).tobytes() == weights.tobytes()
    assert sorted(os.listdir(tmp_path)) == ["rows.csv", "rows.npz"]


def test_export_of_a_table_without_rows_and_of_one_with_row_life(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(1, (spec("empty"), spec("aging", 2, life=Life(age=10))))
    table = job.tables[1]
    job.client.pull([(table, KEYS[:7])], create=True).result(20)
    job.client.push([(table, RowGradient(KEYS[:7], np.array([7]), np.ones((7, 2), np.float32)))], 0.1)
    job.client.flush()
    trainer.save(job.client, str(tmp_path / "snapshot"))
    said = run(capsys, "export", tmp_path / "snapshot", "--table", "empty", "--to", tmp_path / "a.csv")[1]
    assert said.endswith("0 rows of table empty\n")
    assert (tmp_path / "a.csv").read_text() == "key,weights_0,weights_1,weights_2,weights_3\n"
    assert run(capsys, "export", tmp_path / "snapshot", "--table", "empty", "--to", tmp_path / "a.npz")[0] == 0
    assert np.load(tmp_path / "a.npz")["weights"].shape == (0, 4)
    assert run(capsys, "export", tmp_path / "snapshot", "--table", "aging", "--to", tmp_path / "b.csv", "--state")[0] == 0
    assert (tmp_path / "b.csv").read_text().startswith("key,weights_0,weights_1,seen\n")
    assert run(capsys, "merge", tmp_path / "snapshot", "--to", tmp_path / "full")[0] == 0
    assert run(capsys, "diff", tmp_path / "snapshot", tmp_path / "full")[0] == 0


def test_export_to_parquet(made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run(capsys, "export", made[0], "--table", "users", "--to", tmp_path / "a.parquet", "--state")[0] == 0
    assert run(capsys, "export", made[0], "--table", "users", "--to", tmp_path / "a.npz", "--state")[0] == 0
    found, wanted = parquet.read_table(tmp_path / "a.parquet"), np.load(tmp_path / "a.npz")
    assert found.column_names == ["key", "weights", "state"]
    assert found["key"].to_pylist() == wanted["keys"].tolist()
    for name in ("weights", "state"):
        assert np.array(found[name].to_pylist(), np.float32).tobytes() == wanted[name].tobytes()


def test_export_without_pyarrow_says_what_to_install(made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, error = run(capsys, "export", made[0], "--table", "users", "--to", tmp_path / "a.parquet")
    assert status == 1 and "pip install pyarrow" in error and os.listdir(tmp_path) == []


def test_requests_that_cannot_be_obeyed(made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (("ls", tmp_path / "nowhere"), "there is no such directory"),
        (("verify", tmp_path), "there is no snapshot here"),
        (("merge", __file__, "--to", tmp_path / "x"), "this is a file, not a directory"),
        (("export", made[0], "--table", "userz", "--to", tmp_path / "x.npz"), "its tables: 'users', 'items/of shop'"),
        (("export", made[0], "--table", "users", "--to", tmp_path / "x.txt"), "ends in .npz, .csv or .parquet"),
        (("export", made[0], "--table", "users", "--to", tmp_path / "no" / "x.npz"), "cannot write: No such file or directory"),
    ):
        status, out, error = run(capsys, *arguments)
        assert (status, out) == (1, "") and words in error and "fix:" in error
    for arguments in (("frobnicate", "x"), (), ("ls",), ("merge", tmp_path), ("ls", made[0], "--to", "x")):
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        assert caught.value.code == 64
    assert "invalid choice: 'frobnicate'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_process_itself_never_imports_paddle(made: Any) -> None:
    code = "import sys, runpy\nsys.modules['paddle'] = None\nsys.argv[1:] = ['verify', sys.argv[1]]\n"
    code += "runpy.run_module('fleet.parameter_server.snapshot', run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, str(made[0])], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "3 snapshots, 12 files: no fault\n"), done.stderr


# What verify finds, a server refuses to load; the rows in memory stay.


@pytest.fixture(scope="module")
def running() -> Iterator[Job]:
    job = Job(2)
    job.push(KEYS, 7)
    yield job
    job.client.close()


def found_and_refused(running: Job, chain: Path, capsys: pytest.CaptureFixture[str], words: str, at: Path) -> None:
    """Both verify and a load of the newest snapshot name the fault and its place."""
    status, out, _ = run(capsys, "verify", chain)
    assert status == 1 and words in out and str(at) in out and "fix:" in out, out
    before = running.contents()
    with pytest.raises(SnapshotError) as caught:
        trainer.load(running.client, str(tables(chain, 3)))
    assert str(at) in str(caught.value) and caught.value.fix
    assert running.contents() == before


def a_file(chain: Path, step: int) -> Path:
    return sorted(tables(chain, step).rglob("*.safetensors"))[-1]


@pytest.mark.parametrize("step", [1, 3])
def test_a_shard_file_that_is_missing(running: Job, chain: Path, capsys: pytest.CaptureFixture[str], step: int) -> None:
    path = a_file(chain, step)
    path.unlink()
    found_and_refused(running, chain, capsys, "the file is missing", path)


def test_a_shard_file_that_is_truncated(running: Job, chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = a_file(chain, 2)
    os.truncate(path, path.stat().st_size - 9)
    found_and_refused(running, chain, capsys, "truncated", path)


def test_a_flipped_bit_of_a_row(running: Job, chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = a_file(chain, 1)
    raw = bytearray(path.read_bytes())
    raw[-20] ^= 1
    path.write_bytes(raw)
    found_and_refused(running, chain, capsys, "corrupt", path)


@pytest.mark.parametrize("step", [1, 3])
def test_a_manifest_that_was_edited(running: Job, chain: Path, capsys: pytest.CaptureFixture[str], step: int) -> None:
    path = tables(chain, step) / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace(f'"step": {json.loads(text)["step"]}', '"step": 99'))
    assert path.read_text() != text
    found_and_refused(running, chain, capsys, "changed after it was written", path)


def test_a_delta_whose_base_is_gone(running: Job, chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(chain / "step-00000001")
    found_and_refused(running, chain, capsys, "is a delta of a snapshot that is not there", tables(chain, 1))


def test_a_base_of_another_job(running: Job, chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_chain(tmp_path / "other").client.close()
    shutil.rmtree(tables(chain, 1))
    shutil.move(tables(tmp_path / "other", 1), tables(chain, 1))
    found_and_refused(running, chain, capsys, "its base is of job", tables(chain, 1))


def test_a_base_that_is_another_snapshot_of_this_job(running: Job, chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(tables(chain, 1), id="another")
    found_and_refused(running, chain, capsys, "but snapshot another lies here", tables(chain, 1))


def test_two_files_that_claim_one_shard(running: Job, chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads((tables(chain, 3) / "manifest.json").read_text())["tables"]
    found["users"]["parts"][1]["shards"] = [511, 1024]
    edit(tables(chain, 3), tables=found)
    found_and_refused(running, chain, capsys, "servers 0 and 1 both claim shard 511", tables(chain, 3) / "manifest.json")


def test_verify_names_every_fault(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing, cut, foreign = a_file(chain, 1), a_file(chain, 2), a_file(chain, 3)
    missing.unlink()
    os.truncate(cut, 100)
    foreign.write_bytes(b"\x93NUMPY" + bytes(5000))
    status, out, _ = run(capsys, "verify", chain)
    assert status == 1 and out.endswith("3 snapshots, 12 files: 3 faults\n")
    assert all(str(path) in out for path in (missing, cut, foreign))
    shutil.rmtree(chain / "step-00000002" / "tables")
    status, out, _ = run(capsys, "verify", chain)
    assert status == 1 and "is not there" in out and str(missing) in out  # the others are still looked at


def test_rows_in_shards_that_their_server_does_not_hold(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads((tables(chain, 1) / "manifest.json").read_text())["tables"]
    first, second = found["users"]["parts"]
    first["files"], second["files"], first["rows"], second["rows"] = second["files"], first["files"], second["rows"], first["rows"]
    edit(tables(chain, 1), tables=found)
    status, out, _ = run(capsys, "verify", tables(chain, 1))
    assert status == 1 and "lie in shards that its server does not hold" in out
