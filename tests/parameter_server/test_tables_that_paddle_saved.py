"""``import-paddle`` on what Paddle 2.6.2's server saved (paddle262/, real files): its weights and row state; what is refused."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet.parameter_server.client import Client, RowGradient
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.freeze import read_safetensors
from fleet.parameter_server.link import LocalLink
from fleet.parameter_server.row_life import Life
from fleet.parameter_server.service import Service
from fleet.parameter_server.snapshot import manifest as manifests
from fleet.parameter_server.snapshot import paddle_text, trainer, writing
from fleet.parameter_server.snapshot.__main__ import main
from fleet.parameter_server.spec import TableSpec

MADE = Path(__file__).resolve().parent / "paddle262"
DIMS = {"SparseNaiveSGDRule": 3, "SparseAdaGradSGDRule": 4, "StdAdaGradSGDRule": 5, "SparseAdamSGDRule": 3,
        "SparseSharedAdamSGDRule": 4}  # fmt: skip
MODES = [("SparseAdaGradSGDRule", 1), ("StdAdaGradSGDRule", 2), ("StdAdaGradSGDRule", 3), *((rule, 0) for rule in DIMS)]
LIVES = itertools.count(1)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["import-paddle", *map(str, arguments)])
    return status, *capsys.readouterr()


def pulled(rule: str) -> tuple[Any, Any]:
    """What Paddle's server answered once it had loaded its own save: keys and rows."""
    found = json.loads((MADE / rule / "pulled.json").read_text())
    return np.array(found["ids"], np.uint64), np.array(found["rows"], np.float32)


def saved(rule: str, mode: int = 0) -> dict[int, list[float]]:
    """The numbers of each key, parsed one by one."""
    found = {}
    for path in (MADE / rule / f"mode-{mode}" / "000").iterdir():
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for line in text.decode().splitlines():
            key, *numbers = line.split(" ")
            found[int(key)] = [float(number) for number in numbers]
    return found


class Job:
    """Three servers in this process that took a snapshot up."""

    def __init__(self, directory: Path) -> None:
        newest = manifests.read(str(directory)).manifest
        self.step = newest["step"]
        self.client = Client([LocalLink(Service(i, 3, 1), next(LIVES)) for i in range(3)], Mode("async", 0), 20)
        self.table = self.client.open(TableSpec.from_json(newest["tables"]["rows"]["spec"]))
        trainer.load(self.client, str(directory))
        self.client.restart(self.step)

    def rows(self, keys: Any) -> Any:
        return self.client.read(self.table, keys)

    def after(self, keys: Any, gradient: float, lr: float) -> Any:
        """The rows after one more step."""
        (p,) = self.client.pull([(self.table, keys)], create=False).result(20)
        self.client.push([(self.table, RowGradient(p.keys, p.counts, np.full_like(p.rows, gradient)))], lr)
        self.client.flush()
        return self.rows(keys)


@pytest.mark.parametrize(("rule", "mode"), MODES)
def test_weights_are_what_its_server_answers(rule: str, mode: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, MADE / rule / f"mode-{mode}", "--table", f"0=rows:{DIMS[rule]}", "--state", "keep",
                           "--to", tmp_path / "out")  # fmt: skip
    assert status == 0, err
    assert f"19 rows of table rows, dim {DIMS[rule]}" in out and f"state of {rule} kept" in out
    keys, rows = pulled(rule)
    assert (2**63 + 7) in keys.tolist() and np.ptp(rows) > 0.5
    np.testing.assert_array_equal(Job(tmp_path / "out").rows(keys), rows)
    assert main(["verify", str(tmp_path / "out")]) == 0


def paddles_next_step(rule: str, numbers: list[float], dim: int, g: float, lr: float) -> list[float]:
    """One more step of both parts of a row, as sparse_sgd_rule.cc computes it, but with Adagrad's sum as every Adagrad takes it."""
    out: list[float] = []
    rest = numbers[5:]
    for width in (1, dim - 1):
        w, rest = rest[:width] or [0.0] * width, rest[width:]
        if rule == "SparseNaiveSGDRule":
            out += [x - lr * g for x in w]
        elif "Ada" in rule and "Adam" not in rule:
            size = width if rule == "StdAdaGradSGDRule" else 1
            sums, rest = (rest[:size] or [0.0] * size), rest[size:]
            out += [x - lr * g / (math.sqrt(3 + (sums[i] if size > 1 else sums[0]) + g * g) + 1e-6) for i, x in enumerate(w)]
        else:
            size = width if rule == "SparseAdamSGDRule" else 1
            m, v, (p1, p2), rest = rest[:size], rest[size : 2 * size], rest[2 * size : 2 * size + 2], rest[2 * size + 2 :]
            for i, x in enumerate(w):
                mi, vi = m[i % size] / max(1 - p1 / 0.9, 0.1), v[i % size] / max(1 - p2 / 0.999, 0.001)  # without their bias
                mi, vi = 0.9 * mi + 0.1 * g, 0.999 * vi + 0.001 * g * g
                out.append(x - lr * mi / (math.sqrt(vi) + 1e-8))
    return out


@pytest.mark.parametrize("rule", DIMS)
def test_training_goes_on_from_its_state(rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By column for both Adagrads: their sums differ between a row's two parts."""
    adagrad = '{"name": "adagrad", "epsilon": 1e-6, "initial_accumulator_value": 3}'
    chosen = ["--row_optimizer", adagrad] if "AdaGrad" in rule else []
    assert run(capsys, MADE / rule / "mode-0", "--table", f"0=rows:{DIMS[rule]}", "--state", "keep", "--to", tmp_path / "o",
               *chosen)[0] == 0  # fmt: skip
    keys, before = pulled(rule)
    lines = saved(rule)
    expected = np.array([paddles_next_step(rule, lines[int(key)], DIMS[rule], 0.3, 0.1) for key in keys])
    found = Job(tmp_path / "o").after(keys, 0.3, 0.1)
    # 1 - beta2**t of float32 is off by 3e-5 of a young row's second moment.
    np.testing.assert_allclose(found - before, expected - before.astype(np.float64), rtol=2e-4, atol=1e-7)


def test_row_wise_adagrad_takes_the_mean_over_the_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = "StdAdaGradSGDRule"
    assert run(capsys, MADE / rule / "mode-0", "--table", "0=rows:5", "--state", "keep", "--to", tmp_path / "o",
               "--row_optimizer", "rowwise_adagrad")[0] == 0  # fmt: skip
    keys, before = pulled(rule)
    sums = np.array([[saved(rule)[int(key)][i] for i in (6, 11, 12, 13, 14)] for key in keys])
    moved = 0.1 * 0.5 / (np.sqrt(sums.mean(axis=1) + 0.25) + 1e-6)
    np.testing.assert_allclose(Job(tmp_path / "o").after(keys, 0.5, 0.1), before - moved[:, None], rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "ftrl", "adam", "momentum", "rowwise_adagrad"])
def test_state_that_is_dropped_begins_anew(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = "SparseAdamSGDRule"
    status, out, err = run(capsys, MADE / rule / "mode-0", "--table", "0=rows:3", "--state", "drop", "--to", tmp_path / "o",
                           "--row_optimizer", name)  # fmt: skip
    assert status == 0 and "state of SparseAdamSGDRule dropped" in out, err
    job = Job(tmp_path / "o")
    keys, rows = pulled(rule)
    np.testing.assert_array_equal(job.rows(keys), rows)
    fresh = Client([LocalLink(Service(0, 1, 1), next(LIVES))], Mode("async", 0), 20)
    table = fresh.open(TableSpec.from_json(manifests.read(str(tmp_path / "o")).manifest["tables"]["rows"]["spec"]))
    fresh.assign(table, keys, rows)
    (p,) = fresh.pull([(table, keys)], create=False).result(20)
    fresh.push([(table, RowGradient(p.keys, p.counts, np.full_like(p.rows, 0.3)))], 0.1)
    fresh.flush()
    np.testing.assert_array_equal(job.after(keys, 0.3, 0.1), fresh.read(table, keys))


def test_the_specs_of_a_snapshot_of_the_new_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its other tables are taken over; 16 bits and scores are made as its spec says."""
    life = Life(below=0.1, decay=0.9, every=100, age=3000, nonclick=0.5, click=2.0)
    wanted = TableSpec("rows", 4, "adagrad", (("initial_accumulator_value", 3.0),), "normal", (0.0, 0.1), 7, 0, life, "bfloat16",
                       "bfloat16")  # fmt: skip
    other = TableSpec("other", 2, "sgd", (), "uniform", (-0.1, 0.1), 7, 0)
    client = Client([LocalLink(Service(i, 2, 1), next(LIVES)) for i in range(2)], Mode("async", 0), 20)
    tables = [client.open(spec) for spec in (wanted, other)]
    client.assign(tables[1], np.arange(50, dtype=np.uint64), np.ones((50, 2), np.float32))
    trainer.save(client, str(tmp_path / "like"))
    status, _, err = run(capsys, MADE / "SparseAdaGradSGDRule" / "mode-0", "--table", "0=rows", "--state", "keep",
                         "--like", tmp_path / "like", "--to", tmp_path / "o")  # fmt: skip
    assert status == 0, err
    taken = Client([LocalLink(Service(i, 3, 1), next(LIVES)) for i in range(3)], Mode("async", 0), 20)
    opened = [taken.open(spec) for spec in (wanted, other)]
    trainer.load(taken, str(tmp_path / "o"))
    keys, rows = pulled("SparseAdaGradSGDRule")
    np.testing.assert_allclose(taken.read(opened[0], keys), rows, rtol=2**-8)
    assert (taken.read(opened[1], np.arange(50, dtype=np.uint64)) == 1).all()
    file = next((tmp_path / "o" / "rows").iterdir())
    tensors = read_safetensors(str(file))
    scores = dict(zip(tensors["keys"].tolist(), tensors["life"].reshape(-1).tolist(), strict=True))
    assert scores == {key: 0.5 * (n[3] - n[4]) + 2 * n[4] for key, n in saved("SparseAdaGradSGDRule").items()}
    status, _, err = run(capsys, MADE / "SparseAdaGradSGDRule" / "mode-0", "--table", "0=rows", "--state", "keep",
                         "--like", tmp_path / "like", "--row_optimizer", "sgd", "--to", tmp_path / "p")  # fmt: skip
    assert status == 1 and "--like says the row optimizer" in err


def test_a_job_loads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that docs/import_paddle.md describes: fleet.save, import-paddle --like, fleet.load."""
    import paddle

    import fleet

    for name in [name for name in os.environ if name.startswith(("FLEET_", "PADDLE_"))]:
        monkeypatch.delenv(name)
    fleet.init()
    try:
        embedding = fleet.parameter_server.Embedding(3, name="rows")
        model = fleet.distributed_model(paddle.nn.Sequential(embedding, paddle.nn.Linear(3, 1)))
        adam = paddle.optimizer.Adam(0.1, parameters=model.parameters(), lazy_mode=True)
        optimizer = fleet.distributed_optimizer(adam, strategy=fleet.DistributedStrategy(parameter_server={"dense": "server"}))
        start = tmp_path / "start.pdparams"
        fleet.save(model, str(start))
        status, _, err = run(capsys, MADE / "SparseAdamSGDRule" / "mode-0", "--table", "0=rows", "--state", "keep",
                             "--like", f"{start}.tables", "--to", tmp_path / "imported.pdparams.tables")  # fmt: skip
        assert status == 0, err
        shutil.copy(start, tmp_path / "imported.pdparams")
        fleet.load(model, str(tmp_path / "imported.pdparams"))
        keys, rows = pulled("SparseAdamSGDRule")
        with paddle.no_grad():
            np.testing.assert_array_equal(embedding(keys).numpy(), rows)
        model(paddle.to_tensor([[0, 8]])).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
        with paddle.no_grad():
            assert 0.01 < abs(embedding(keys).numpy() - rows).max() < 0.4  # 0.316: the largest step of Adam without bias
    finally:
        fleet.shutdown()


def test_dense_parameters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = {"fc_0.b_0": (3,), "fc_0.w_0": (3, 3), "fc_1.b_0": (2,), "fc_1.w_0": (3, 2)}
    names = [part for name, shape in shapes.items() for part in ("--parameter", f"{name}={'x'.join(map(str, shape))}")]
    source = MADE / "SparseAdamSGDRule" / "mode-0"
    status, out, err = run(capsys, source, "--dense", f"1={tmp_path / 'd.npz'}", "--state", "keep", *names)
    assert status == 0 and "20 values of dense table 1, state kept" in out, err
    expected = json.loads((MADE / "SparseAdamSGDRule" / "pulled.json").read_text())["dense"]
    found = np.load(tmp_path / "d.npz")
    assert sorted(found.files) == sorted(name + more for name in shapes for more in ("", "@1", "@2"))
    for name, shape in shapes.items():
        np.testing.assert_array_equal(found[name], np.array(expected[name], np.float32).reshape(shape))
        assert (found[f"{name}@2"] >= 0).all()
    assert run(capsys, source, "--dense", f"1={tmp_path / 'e.npz'}", "--state", "drop")[0] == 0
    assert np.load(tmp_path / "e.npz").files == ["values"] and os.listdir(tmp_path) == ["d.npz", "e.npz"]
    status, _, err = run(capsys, source, "--dense", f"1={tmp_path / 'f.npz'}", "--state", "drop", *names[:-2])
    assert status == 1 and "the shapes have 14 values, the table 20" in err


def test_blocks_and_files_of_any_size_give_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    keys, rows = pulled("StdAdaGradSGDRule")
    monkeypatch.setattr(writing, "FILE_BYTES", 300)
    for size in (1, 7, 64, 1000):
        monkeypatch.setattr(paddle_text, "BLOCK_BYTES", size)
        assert run(capsys, MADE / "StdAdaGradSGDRule" / "mode-3", "--table", "0=rows:5", "--state", "keep", "--rule",
                   "StdAdaGradSGDRule", "--to", tmp_path / str(size))[0] == 0  # fmt: skip
        np.testing.assert_array_equal(Job(tmp_path / str(size)).rows(keys), rows)
    assert len(list((tmp_path / "7" / "rows").iterdir())) > 3


def test_parts_of_several_servers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two servers of one shard each write the same lines under other names; unzipped they are the same too."""
    shutil.copytree(MADE / "SparseAdamSGDRule" / "mode-0", tmp_path / "saved")
    folder = tmp_path / "saved" / "000"
    (folder / "part-001-00001").write_bytes(gzip.decompress((folder / "part-000-00001.gz").read_bytes()))
    (folder / "part-000-00001.gz").unlink()
    assert run(capsys, tmp_path / "saved", "--table", "0=rows:3", "--state", "keep", "--to", tmp_path / "o")[0] == 0
    keys, rows = pulled("SparseAdamSGDRule")
    np.testing.assert_array_equal(Job(tmp_path / "o").rows(keys), rows)


GOOD = "5 0 0 0.1 1 0 0.25 0.5 -1e-05\n"  # SparseNaiveSGDRule, 3 weights
BAD = {
    "x 0 0 0.1 1 0 0.25 0.5 0.5\n": "the key is no integer",
    "-5 0 0 0.1 1 0 0.25 0.5 0.5\n": "the key is no integer",
    "18446744073709551616 0 0 0.1 1 0 0.25 0.5 0.5\n": "the key is no integer",
    "99999999999999999999 0 0 0.1 1 0 0.25 0.5 0.5\n": "the key is no integer",
    "123456789012345678901 0 0 0.1 1 0 0.25 0.5 0.5\n": "the key is no integer",
    "7\n": "the line has no numbers behind its key",
    "\n": "the line is empty, or has an empty field",
    "7 0 0 0.1  1 0 0.25 0.5\n": "the line is empty, or has an empty field",
    "7 0 0 0.1 1 0 0.25 0.5\n": "the line has 7 numbers behind its key",
    "7 0 0 0.1 1 0 0.25 0.5 0.5 0.5\n": "the line has 9 numbers behind its key",
    "7 0 0 0.1 1 0 0.25 nan 0.5\n": "field 8 of the line is no finite number: 'nan'",
    "7 0 0 0.1 1 0 0.25 0.5 1e40\n": "field 9 of the line is no finite number: '1e40'",
    "7 0 0 0.1 1 0 0.25 0.5 0.5x\n": "field 9 of the line is no finite number: '0.5x'",
    "7 0 0 0.1 1 0 0.2-5 0.5 0.5\n": "field 7 of the line is no finite number: '0.2-5'",
    "7 0 0 0.1 1 0 0.2\t5 0.5 0.5\n": "field 7 of the line is no finite number",
    "7 0 0 0.1 -1 0 0.25 0.5 0.5\n": "show or click is negative",
    "5 0 0 0.1 1 0 0.25 0.5 0.5\n": "key 5 stands in",
    "7 0 0 0.1 1 0 0.25 0.5": "the file was cut off",
}


@pytest.mark.parametrize("line", BAD)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_malformed_line_is_named(line: str, zipped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "saved" / "000"
    folder.mkdir(parents=True)
    (folder / "part-000-00000").write_text("3 0 0 0.1 1 0 0.25 0.5 0.5\n" * 1)
    text = ("6" + GOOD[1:] + GOOD + line + "9" + GOOD[1:] * (not line.endswith("5"))).encode()
    text = text if line.endswith("\n") else text[: text.rindex(b"9")]
    last = folder / ("part-000-00001" + ".gz" * zipped)
    last.write_bytes(gzip.compress(text) if zipped else text)
    status, _, err = run(capsys, tmp_path / "saved", "--table", "0=rows:3", "--state", "keep", "--to", tmp_path / "o")
    assert status == 1 and BAD[line] in err and f"{last}:3" in err, err
    assert sorted(os.listdir(tmp_path)) == ["saved"]


def _damage(folder: Path, kind: str) -> None:
    first, second = folder / "part-000-00000.gz", folder / "part-000-00001.gz"
    if kind == "missing":
        first.unlink()
    elif kind == "cut":
        second.write_bytes(second.read_bytes()[:-30])
    elif kind == "flipped":
        second.write_bytes(second.read_bytes()[:40] + b"\xff" + second.read_bytes()[41:])
    elif kind == "twice":
        shutil.copy(first, folder / "part-001-00000.gz")
    elif kind == "foreign":
        (folder / "notes.txt").write_text("mine")


DAMAGES = {"missing": "part 0 of the table is missing", "cut": "cannot be read", "flipped": "cannot be read",
           "twice": "is the same part of the table", "foreign": "no part of a sparse table"}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_directories(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(MADE / "SparseNaiveSGDRule" / "mode-0", tmp_path / "saved")
    _damage(tmp_path / "saved" / "000", kind)
    status, _, err = run(capsys, tmp_path / "saved", "--table", "0=rows:3", "--state", "keep", "--to", tmp_path / "o")
    assert status == 1 and DAMAGES[kind] in err and "fix:" in err
    assert os.listdir(tmp_path) == ["saved"]


ASKED: dict[str, tuple[list[str], str]] = {
    "another table": (["--table", "2=rows:3"], "no table 2"),
    "a dense table": (["--table", "1=rows:3"], "no part of a sparse table"),
    "a wrong dim": (["--table", "0=rows:4"], "no rule writes these"),
    "another rule": (["--table", "0=rows:3", "--rule", "StdAdaGradSGDRule"], "3 weights by StdAdaGradSGDRule have"),
    "no such rule": (["--table", "0=rows:3", "--rule", "Adam"], "no rule 'Adam'"),
    "no such optimizer": (["--table", "0=rows:3", "--row_optimizer", "lion"], "no row optimizer 'lion'"),
    "no such constant": (["--table", "0=rows:3", "--row_optimizer", '{"name": "adam", "beta3": 1}'], "beta3"),
    "state of another": (["--table", "0=rows:3", "--row_optimizer", "sgd"], "sgd cannot go on from the state of SparseAdamSGDRule"),
    "no dim": (["--table", "0=rows"], "table 'rows' has no dim"),
    "twice": (["--table", "0=rows:3", "--table", "0=r:3"], "table 0 is given twice"),
    "no number": (["--table", "rows:3"], "is not NUMBER=NAME:DIM"),
    "a name that is none": (["--table", "0=..:3"], "cannot be the name of a table"),
}


@pytest.mark.parametrize("what", ASKED)
def test_what_does_not_fit_is_refused(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, expected = ASKED[what]
    source = MADE / "SparseAdamSGDRule" / "mode-0"
    status, _, err = run(capsys, source, "--state", "keep", "--to", tmp_path / "o", *arguments)
    assert status == 1 and expected in err and "fix:" in err, err
    assert os.listdir(tmp_path) == []


def test_a_rule_that_two_could_be_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "saved" / "000"
    folder.mkdir(parents=True)
    (folder / "part-000-00000").write_text("3 0 0 0.1 1 0 0.25 1\n")  # short: either Adagrad writes it
    asked = (tmp_path / "saved", "--table", "0=rows:4", "--state", "keep", "--to", tmp_path / "o")
    status, _, err = run(capsys, *asked)
    assert status == 1 and "several rules write these" in err and "StdAdaGradSGDRule: 7 or 13" in err
    assert run(capsys, *asked, "--rule", "StdAdaGradSGDRule")[0] == 0
    assert Job(tmp_path / "o").rows(np.array([3], np.uint64)).tolist() == [[0.25, 0, 0, 0]]


@pytest.mark.parametrize(("rule", "line", "moved"), [
    ("SparseNaiveSGDRule", "3 0 0 0.1 1 0 0.25\n", 0.1 * 0.3),
    ("SparseAdaGradSGDRule", "3 0 0 0.1 1 0 0.25 1\n", 0.1 * 0.3 / math.sqrt(3 + 1 + 0.09)),
    ("SparseAdamSGDRule", "3 0 0 0.1 1 0 0.25 0.01 0.001 0.81 0.998001\n", 0.1 * 0.12 / math.sqrt(0.999 + 0.00009)),
])  # fmt: skip
def test_rows_of_one_weight(rule: str, line: str, moved: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "saved" / "000"
    folder.mkdir(parents=True)
    (folder / "part-000-00000").write_text(line)
    asked = (tmp_path / "saved", "--table", "0=rows:1", "--state", "keep", "--rule", rule, "--to", tmp_path / "o")
    assert run(capsys, *asked)[0] == 0
    found = Job(tmp_path / "o").after(np.array([3], np.uint64), 0.3, 0.1)
    np.testing.assert_allclose(found, [[0.25 - moved]], rtol=1e-4)


def test_the_state_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main(["import-paddle", "saved", "--table", "0=rows:3", "--to", "o"])
    assert status.value.code == 64 and "--state" in capsys.readouterr().err
