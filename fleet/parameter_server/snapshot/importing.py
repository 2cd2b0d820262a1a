"""``import-paddle``: the text tables of Paddle's parameter server as one full snapshot. ``docs/import_paddle.md`` is its manual."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fleet import disk
from fleet.errors import ConfigError, SnapshotError
from fleet.parameter_server.snapshot import manifest as manifests
from fleet.parameter_server.snapshot import paddle_rules, paddle_text
from fleet.parameter_server.snapshot.merging import merge_table
from fleet.parameter_server.snapshot.paddle_rules import Rows
from fleet.parameter_server.snapshot.places import newest_in
from fleet.parameter_server.snapshot.reading import Tensors, spec_of
from fleet.parameter_server.snapshot.writing import new_directory, write_part
from fleet.parameter_server.spec import NUM_SHARDS, OPTIMIZERS, TableSpec

INITIAL = ("uniform", (-0.01, 0.01))  # of rows that are new later: as an Embedding without initializer
_G2SUM = 3.0  # Paddle's initial_g2sum, if the table's configuration does not say another
_AT = "import-paddle"


class Asked(NamedTuple):
    """One of Paddle's sparse tables, and what it is to be here."""

    number: int
    name: str
    dim: int  # 0: as --like has it


class Imported(NamedTuple):
    """What was done with one table."""

    name: str
    rule: str
    rows: int
    spec: TableSpec


class Import:
    """One run of ``import-paddle``.

    Args:
        core: the C++ core.
        directory: that ``save_persistables`` wrote.
        rule: of all tables, in Paddle's words; None: what the lengths of the lines say.
        keep_state: go on from Paddle's row state; False: it begins anew.
        optimizer: ``(name, constants)`` of the row optimizer; None: the one nearest to the rule.
        like: a snapshot whose tables have the specs that are wanted; its other tables are taken over.
    """

    def __init__(self, core: Any, directory: str, *, rule: str | None, keep_state: bool,
                 optimizer: tuple[str, dict[str, float]] | None, like: str | None) -> None:  # fmt: skip
        if rule is not None and rule not in paddle_rules.RULES:
            raise ConfigError(f"no rule {rule!r}", at=f"{_AT} --rule", fix=f"one of {', '.join(paddle_rules.RULES)}")
        if optimizer is not None and optimizer[0] not in OPTIMIZERS:
            raise ConfigError(f"no row optimizer {optimizer[0]!r}", at=f"{_AT} --row_optimizer", fix=", ".join(OPTIMIZERS))
        if optimizer is not None and like is not None:
            raise ConfigError("--like says the row optimizer", at=f"{_AT} --row_optimizer", fix="give one of the two")
        self._core, self._directory, self._rule, self._keep, self._optimizer = core, directory, rule, keep_state, optimizer
        self._like = manifests.chain(newest_in(like)) if like is not None else []

    def run(self, tables: list[Asked], target: str) -> list[Imported]:
        """Write the snapshot; return what became of each table.

        Memory: some times 16 MB of text, two files of rows, and 16 bytes for each row of one table.

        Raises:
            SnapshotError: a file is missing, damaged, or a line is no row: with its number; ``target`` is not there then.
            ConfigError: what is asked for does not fit the tables.
        """
        self._refuse_twice(tables)
        found = []
        for table in tables:
            files = paddle_text.parts_of(self._directory, table.number, paddle_text.SPARSE)
            dim = table.dim or self._spec_like(table).dim
            rule = self._rule or self._rule_of(files, dim)
            found.append((files, Imported(table.name, rule, 0, self._spec(table, rule, dim))))
        step = max([paddle_rules.steps_without_bias(one.spec) for _, one in found if self._keep], default=0)
        applied: list[dict[str, Any]] = [{}]
        job, others = uuid.uuid4().hex, []
        if self._like:
            newest = self._like[0].manifest
            self._refuse_older(newest, [table.name for table in tables], step)
            job, step, others = newest["job"], max(step, int(newest["step"])), list(newest["tables"])
        with new_directory(target) as temporary:
            written: dict[str, Any] = {}
            done: list[Imported] = []
            for files, one in found:
                part: dict[str, Any] = {"server": 0, "shards": [0, NUM_SHARDS], "steps": step, "clock": step}
                part = write_part(self._core, one.spec, part, self._blocks(files, one, step), temporary)
                written[one.name] = {"spec": one.spec.to_json(), "parts": [part]}
                done.append(one._replace(rows=part["rows"]))
            for name in others:
                if name not in written:
                    written[name] = merge_table(self._core, self._like, name, temporary)
            about = {"id": uuid.uuid4().hex, "job": job, "parent": None, "step": step, "num_servers": 1, "applied": applied}
            manifests.write(temporary, {**about, "tables": written})
        manifests.read(os.path.abspath(target))
        return done

    def _refuse_twice(self, tables: list[Asked]) -> None:
        for what, values in (("table", [t.number for t in tables]), ("name", [t.name for t in tables])):
            twice = [value for i, value in enumerate(values) if value in values[:i]]
            if twice:
                raise ConfigError(f"{what} {twice[0]} is given twice", at=f"{_AT} --table", fix="give each table once, each a name")

    def _refuse_older(self, newest: dict[str, Any], names: list[str], step: int) -> None:
        """Rows of other tables would age by the steps that Adam's powers need."""
        for name, table in newest["tables"].items():
            spec = TableSpec.from_json(table["spec"])
            if name not in names and spec.life.evicts and step > newest["step"] and any(p["rows"] for p in table["parts"]):
                what = f"rows of table {name!r} would age from step {newest['step']} to {step}, behind which Adam has no bias"
                raise ConfigError(what, at=f"{_AT} --like", fix="give a snapshot from before training, or --state drop")

    def _rule_of(self, files: list[str], dim: int) -> str:
        for path in files:
            for lines in paddle_text.lines_of(path, keyed=True):
                return paddle_rules.rule_of(lines, dim)
        fix = "give --rule: embedx_sgd_param.name of the table"
        raise ConfigError("the table has no rows: nothing says its rule", at=os.path.dirname(files[0]), fix=fix)

    def _spec_like(self, table: Asked) -> TableSpec:
        if not self._like:
            fix = f"--table {table.number}={table.name}:DIM, or --like a snapshot that has the table"
            raise ConfigError(f"table {table.name!r} has no dim", at=f"{_AT} --table", fix=fix)
        return spec_of(self._like[0], table.name)

    def _spec(self, table: Asked, rule: str, dim: int) -> TableSpec:
        if self._like:
            spec = self._spec_like(table)
            if spec.dim != dim:
                fix = f"--table {table.number}={table.name}: --like says the dim"
                raise ConfigError(f"table {table.name!r} has dim {spec.dim}, not {dim}", at=f"{_AT} --like", fix=fix)
        else:
            constants: dict[str, float]
            name, constants = self._optimizer or (paddle_rules.HERE[rule][0], {})
            if self._optimizer is None:  # as Paddle's optimizer of that name says them
                constants = {key: default for key, (default, _, _) in OPTIMIZERS[name].items() if key != "dense"}
                if "initial_accumulator_value" in constants:
                    constants["initial_accumulator_value"] = _G2SUM
            spec = TableSpec(table.name, dim, name, tuple(sorted(constants.items())), *INITIAL, 0, 0)
        try:
            TableSpec.from_json(spec.to_json()).make(self._core)
        except ValueError as error:
            raise ConfigError(str(error), at=f"{_AT} --row_optimizer", fix="docs/row_optimizer.md lists the constants") from None
        if self._keep:
            paddle_rules.state_here(_no_rows(rule, dim), rule, spec)  # refuses before anything is written
        return spec

    def _blocks(self, files: list[str], table: Imported, step: int) -> Iterator[Tensors]:
        """Yield a table's rows as a snapshot has them, then look for keys that stand twice."""
        keys: list[NDArray[np.uint64]] = []
        counts = []
        for path in files:
            num_rows = 0
            for lines in paddle_text.lines_of(path, keyed=True):
                rows = paddle_rules.rows_of(lines, table.rule, table.spec.dim)
                outside = rows.keys >= table.spec.vocabulary if table.spec.vocabulary else np.zeros(0, bool)
                if outside.any():
                    what = f"key {rows.keys[np.argmax(outside)]} is outside the vocabulary of {table.spec.vocabulary}"
                    raise lines.refuse(int(np.argmax(outside)), what, "give the table a larger vocabulary, or none")
                keys.append(rows.keys)
                num_rows += len(rows.keys)
                yield self._columns(lines, rows, table, step)
            counts.append(num_rows)
        _refuse_repeats(np.concatenate(keys) if keys else np.zeros(0, np.uint64), files, counts)

    def _columns(self, lines: paddle_text.Lines, rows: Rows, table: Imported, step: int) -> Tensors:
        spec, weights = table.spec, rows.weights
        if self._keep:
            state = paddle_rules.state_here(rows, table.rule, spec)
        else:  # whatever the row optimizer begins with beside these weights
            fresh = spec._replace(life=type(spec.life)(), weights="float32", state="float32").make(self._core)
            fresh.assign(rows.keys, weights)
            state = fresh.read(rows.keys)[2]
        found: Tensors = {"keys": rows.keys, "weights": self._stored(lines, weights, spec.weights)}
        if state.shape[1]:
            found["state"] = self._stored(lines, state, spec.state)
        if spec.life.scored:
            score = spec.life.nonclick * (rows.show - rows.click) + spec.life.click * rows.click
            found["life"] = score.astype(np.float32).reshape(-1, 1)
        if spec.life.evicts:
            ticks = step // max(1, -(-spec.life.age // 16384))  # core/life.h: a tick is so many steps
            found["seen"] = np.full(len(rows.keys), ticks % 65536, np.uint16)
        return found

    def _stored(self, lines: paddle_text.Lines, values: NDArray[np.float32], kind: str) -> NDArray[Any]:
        values = np.ascontiguousarray(values, dtype=np.float32)
        if kind == "float32":
            return values
        out = np.empty(values.shape, np.uint16)
        if self._core.narrow(values.reshape(-1), out.reshape(-1), kind):
            wide = np.empty_like(values)
            self._core.widen(out.reshape(-1), wide.reshape(-1), kind)
            line = int(np.argmax(~np.isfinite(wide).all(axis=1)))
            raise lines.refuse(line, f"a number is too large for {kind}", "take bfloat16 or float32 for the table")
        return out


def _no_rows(rule: str, dim: int) -> Rows:
    width = paddle_rules.RULES[rule](1) + (paddle_rules.RULES[rule](dim - 1) if dim > 1 else 0)
    nothing = np.zeros(0, np.float32)
    return Rows(np.zeros(0, np.uint64), nothing.reshape(0, dim), nothing.reshape(0, width), nothing, nothing)


def _refuse_repeats(keys: NDArray[np.uint64], files: list[str], counts: list[int]) -> None:
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    repeats = np.flatnonzero(ordered[1:] == ordered[:-1])
    if not len(repeats):
        return
    ends = np.cumsum(counts)
    places = []
    for row in order[repeats[0] : repeats[0] + 2].tolist():
        file = int(np.searchsorted(ends, row, side="right"))
        places.append(f"{files[file]}:{row - int(ends[file]) + counts[file] + 1}")
    what = f"key {ordered[repeats[0]]} stands in {places[0]} too"
    raise SnapshotError(what, at=places[1], fix="give one save of the table: files of two were mixed")


def import_dense(directory: str, number: int, target: str, shapes: Mapping[str, tuple[int, ...]], keep_state: bool) -> int:
    """Write a dense table, all parameters of the model in a row, as ``.npz``; return how many values it has.

    Args:
        shapes: of the parameters, in the table's order (that of their names): arrays of these names; none: one array, ``values``.
        keep_state: the optimizer's state too: ``NAME@1``, ``NAME@2``.

    Raises:
        SnapshotError: a file is missing or damaged, or a line is no value.
        ConfigError: the shapes do not add up.
    """
    columns: list[NDArray[np.float32]] = []
    for path in paddle_text.parts_of(directory, number, paddle_text.DENSE):
        for lines in paddle_text.lines_of(path, keyed=False):
            counts = np.diff(lines.starts)
            width = columns[0].shape[1] if columns else int(counts[0])
            if (counts != width).any():
                line = int(np.argmax(counts != width))
                raise lines.refuse(line, f"the line has {counts[line]} numbers, the first has {width}")
            columns.append(lines.numbers.reshape(-1, width))
    table = np.concatenate(columns) if columns else np.zeros((0, 1), np.float32)
    wanted = dict(shapes) or {"values": (len(table),)}
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in wanted.values()]
    if sum(sizes) != len(table):
        fix = "give every parameter of the model in the order of the names, as NAME=3x4"
        raise ConfigError(f"the shapes have {sum(sizes)} values, the table {len(table)}", at=f"{_AT} --parameter", fix=fix)
    arrays: dict[str, Any] = {}
    begin = 0
    for (name, shape), size in zip(wanted.items(), sizes, strict=True):
        for column in range(table.shape[1] if keep_state else 1):
            arrays[f"{name}@{column}" if column else name] = table[begin : begin + size, column].reshape(shape)
        begin += size
    temporary = f"{target}.tmp"
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        disk.sync_directory(os.path.dirname(os.path.abspath(target)))
    except OSError as error:
        fix = "free space or give another place; nothing was changed"
        raise SnapshotError(f"cannot write: {error.strerror}", at=target, fix=fix) from None
    finally:
        disk.remove(temporary)
    return len(table)
