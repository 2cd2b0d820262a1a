"""``python -m fleet.parameter_server.snapshot``: look at snapshots, check, compare, merge, export and import them.

Never imports Paddle.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from typing import Any

from fleet.command import Arguments
from fleet.errors import ConfigError, FleetError
from fleet.parameter_server import native
from fleet.parameter_server.snapshot.comparing import differences
from fleet.parameter_server.snapshot.exporting import export
from fleet.parameter_server.snapshot.importing import Asked, Import, import_dense
from fleet.parameter_server.snapshot.listing import listing
from fleet.parameter_server.snapshot.merging import merge
from fleet.parameter_server.snapshot.verifying import faults_in

_DIR = "a snapshot, a checkpoint, or a directory of checkpoints"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status: 0 done, 1 faults, differences or an error, 64 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except FleetError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _ls(options: argparse.Namespace) -> int:
    text, readable = listing(options.directory)
    print(text)
    return 0 if readable else 1


def _verify(options: argparse.Namespace) -> int:
    faults, num_snapshots, num_files = faults_in(native.load(), options.directory)
    for fault in faults:
        print(fault)
    print(f"{num_snapshots} snapshots, {num_files} files: {f'{len(faults)} faults' if faults else 'no fault'}")
    return 1 if faults else 0


def _diff(options: argparse.Namespace) -> int:
    found = differences(native.load(), options.a, options.b)
    for d in found:
        counts = f"{d.only_a} rows only in A, {d.only_b} only in B, {d.changed} changed, {d.equal} equal"
        print(f"{d.table}: {counts}" + (f" ({d.note})" if d.note else ""))
    return 1 if any(d.only_a or d.only_b or d.changed or d.note for d in found) else 0


def _merge(options: argparse.Namespace) -> int:
    link = merge(native.load(), options.directory, options.to)
    parts = [part for table in link.manifest["tables"].values() for part in table["parts"]]
    print(f"{link.directory}: a full snapshot of step {link.manifest['step']}, {sum(part['rows'] for part in parts)} rows")
    return 0


def _export(options: argparse.Namespace) -> int:
    num_rows = export(native.load(), options.directory, options.table, options.to, options.state)
    print(f"{options.to}: {num_rows} rows of table {options.table}")
    return 0


def _import_paddle(options: argparse.Namespace) -> int:
    tables = [_table(text) for text in options.table]
    dense = [_dense(text) for text in options.dense]
    if options.parameter and len(dense) != 1:
        raise ConfigError("--parameter names the parameters of one --dense", at="import-paddle", fix="give one --dense")
    if bool(tables) != (options.to is not None) or not (tables or dense):
        raise ConfigError("--table and --to go together", at="import-paddle", fix="give both, or --dense alone")
    shapes = dict(_shape(text) for text in options.parameter)
    keep = options.state == "keep"
    if tables:
        optimizer = None if options.row_optimizer is None else _row_optimizer(options.row_optimizer)
        job = Import(native.load(), options.directory, rule=options.rule, keep_state=keep, optimizer=optimizer, like=options.like)
        for one in job.run(tables, options.to):
            hyper = ", ".join(f"{name}={value:g}" for name, value in one.spec.hyper)
            state = f"state of {one.rule} kept" if keep else f"state of {one.rule} dropped"
            print(f"{options.to}: {one.rows} rows of table {one.name}, dim {one.spec.dim}, {one.spec.optimizer}({hyper}), {state}")
    for number, target in dense:
        num_values = import_dense(options.directory, number, target, shapes, keep)
        print(f"{target}: {num_values} values of dense table {number}, state {'kept' if keep else 'dropped'}")
    return 0


def _table(text: str) -> Asked:
    match = re.fullmatch(r"(\d+)=(.+?)(?::(\d+))?", text)
    if match is None:
        raise ConfigError(f"--table {text!r} is not NUMBER=NAME:DIM", at="import-paddle", fix="--table 0=embedding:9")
    return Asked(int(match[1]), match[2], int(match[3] or 0))


def _dense(text: str) -> tuple[int, str]:
    match = re.fullmatch(r"(\d+)=(.+\.npz)", text)
    if match is None:
        raise ConfigError(f"--dense {text!r} is not NUMBER=FILE.npz", at="import-paddle", fix="--dense 1=dense.npz")
    return int(match[1]), match[2]


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    match = re.fullmatch(r"(.+)=(\d+(?:x\d+)*)", text)
    if match is None:
        raise ConfigError(f"--parameter {text!r} is not NAME=3x4", at="import-paddle", fix="--parameter fc_0.w_0=13x400")
    return match[1], tuple(int(size) for size in match[2].split("x"))


def _row_optimizer(text: str) -> tuple[str, dict[str, float]]:
    """Read ``adagrad``, or the JSON that the strategy's ``row_optimizer`` takes."""
    fix = """--row_optimizer adagrad, or '{"name": "adagrad", "initial_accumulator_value": 3}'"""
    if not text.startswith("{"):
        return text, {}
    try:
        given: dict[str, Any] = json.loads(text)
        return str(given.pop("name")), {name: float(value) for name, value in given.items()}
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{text!r} names no row optimizer with constants", at="import-paddle --row_optimizer", fix=fix) from None


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(prog="python -m fleet.parameter_server.snapshot", allow_abbrev=False, description="Snapshots of tables.")
    commands = parser.add_subparsers(dest="command", required=True)
    ls = commands.add_parser("ls", help="list snapshots", allow_abbrev=False)
    ls.set_defaults(run=_ls)
    ls.add_argument("directory", metavar="DIR", help=_DIR)
    verify = commands.add_parser("verify", help="check every file, back to the full snapshots", allow_abbrev=False)
    verify.set_defaults(run=_verify)
    verify.add_argument("directory", metavar="DIR", help=_DIR)
    diff = commands.add_parser("diff", help="count rows that differ; exit status 1 if any does", allow_abbrev=False)
    diff.set_defaults(run=_diff)
    diff.add_argument("a", metavar="A", help=f"{_DIR}: its newest")
    diff.add_argument("b", metavar="B")
    merging = commands.add_parser("merge", help="write a full snapshot of what a chain loads to", allow_abbrev=False)
    merging.set_defaults(run=_merge)
    merging.add_argument("directory", metavar="DIR", help=f"{_DIR}: its newest")
    merging.add_argument("--to", metavar="OUT", required=True, help="a directory that does not exist")
    exporting = commands.add_parser("export", help="write one table as npz, csv or Parquet", allow_abbrev=False)
    exporting.set_defaults(run=_export)
    exporting.add_argument("directory", metavar="DIR", help=f"{_DIR}: its newest")
    exporting.add_argument("--table", metavar="T", required=True)
    exporting.add_argument("--to", metavar="FILE", required=True, help="its ending, .npz, .csv or .parquet, says the format")
    exporting.add_argument("--state", action="store_true", help="row state and row life too")
    importing = commands.add_parser("import-paddle", help="make a snapshot of what Paddle's server saved", allow_abbrev=False)
    importing.set_defaults(run=_import_paddle)
    importing.add_argument("directory", metavar="DIR", help="what save_persistables of Paddle 2.x wrote: DIR/000/part-*")
    importing.add_argument("--to", metavar="OUT", help="a directory that does not exist")
    importing.add_argument("--table", metavar="NUMBER=NAME:DIM", action="append", default=[], help="a sparse table")
    importing.add_argument("--state", choices=("keep", "drop"), required=True, help="what becomes of the row optimizer's state")
    importing.add_argument("--like", metavar="SNAPSHOT", help="a snapshot of the new model, whose tables say what is to be made")
    importing.add_argument("--row_optimizer", metavar="NAME", help="or JSON with constants; default: the one nearest to Paddle's")
    importing.add_argument("--rule", metavar="RULE", help="Paddle's, e.g. SparseAdaGradSGDRule; default: as the lines say")
    importing.add_argument("--dense", metavar="NUMBER=FILE.npz", action="append", default=[], help="a dense table")
    importing.add_argument("--parameter", metavar="NAME=3x4", action="append", default=[], help="of the dense table, in its order")
    return parser


if __name__ == "__main__":
    sys.exit(main())
