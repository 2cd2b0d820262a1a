"""``python -m fleet.parameter_server.snapshot``: look at snapshots, check, compare, merge and export them. Never imports Paddle."""

from __future__ import annotations

import argparse
import sys

from fleet.errors import FleetError
from fleet.parameter_server import native
from fleet.parameter_server.snapshot.comparing import differences
from fleet.parameter_server.snapshot.exporting import export
from fleet.parameter_server.snapshot.listing import listing
from fleet.parameter_server.snapshot.merging import merge
from fleet.parameter_server.snapshot.verifying import faults_in

_USAGE = 64  # the status of every wrong use
_DIR = "a snapshot, a checkpoint, or a directory of checkpoints"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(_USAGE, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status: 0 done, 1 faults, differences or an error, 64 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        return {"ls": _ls, "verify": _verify, "diff": _diff, "merge": _merge, "export": _export}[options.command](options)
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m fleet.parameter_server.snapshot", allow_abbrev=False, description="Snapshots of tables.")
    commands = parser.add_subparsers(dest="command", required=True)
    ls = commands.add_parser("ls", help="list snapshots", allow_abbrev=False)
    ls.add_argument("directory", metavar="DIR", help=_DIR)
    verify = commands.add_parser("verify", help="check every file, back to the full snapshots", allow_abbrev=False)
    verify.add_argument("directory", metavar="DIR", help=_DIR)
    diff = commands.add_parser("diff", help="count rows that differ; exit status 1 if any does", allow_abbrev=False)
    diff.add_argument("a", metavar="A", help=f"{_DIR}: its newest")
    diff.add_argument("b", metavar="B")
    merging = commands.add_parser("merge", help="write a full snapshot of what a chain loads to", allow_abbrev=False)
    merging.add_argument("directory", metavar="DIR", help=f"{_DIR}: its newest")
    merging.add_argument("--to", metavar="OUT", required=True, help="a directory that does not exist")
    exporting = commands.add_parser("export", help="write one table as npz, csv or Parquet", allow_abbrev=False)
    exporting.add_argument("directory", metavar="DIR", help=f"{_DIR}: its newest")
    exporting.add_argument("--table", metavar="T", required=True)
    exporting.add_argument("--to", metavar="FILE", required=True, help="its ending, .npz, .csv or .parquet, says the format")
    exporting.add_argument("--state", action="store_true", help="row state and row life too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
