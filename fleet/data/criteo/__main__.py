"""``python -m fleet.data.criteo pack IN OUT`` and ``... generate OUT``."""

from __future__ import annotations

import argparse
import sys
import time

from fleet.command import Arguments
from fleet.data.bad_lines import MAX_BAD_LINES
from fleet.data.criteo import generate, pack
from fleet.errors import FleetError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    began = time.perf_counter()
    try:
        if options.command == "pack":
            meta = pack(
                options.paths,
                options.out,
                num_buckets=options.num_buckets,
                num_readers=options.num_readers,
                max_bad_lines=options.max_bad_lines,
            )
            took = time.perf_counter() - began
            rate = meta["num_lines"] / took
            print(f"{options.out}: {meta['num_samples']} samples, {meta['num_bad_lines']} bad lines left out, {rate:.0f} lines/s")
        else:
            said = generate(options.out, options.samples, options.seed, held_out=options.held_out, num_parts=options.parts)
            took = time.perf_counter() - began
            print(f"{options.out}/train: {said['num_train']} samples; {options.out}/test: {said['num_test']} ({took:.1f} s)")
            print(f"Bayes AUC {said['bayes_auc']:.4f}: what the true click probabilities reach on the test samples")
    except FleetError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(prog="python -m fleet.data.criteo", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="parse raw text once, keep NumPy arrays", allow_abbrev=False)
    packing.add_argument("paths", nargs="+", metavar="IN", help="files or directories of parts, plain or gzipped")
    packing.add_argument("out", metavar="OUT", help="directory of the pack")
    packing.add_argument("--num_buckets", type=int, default=1_000_001, help="ids lie below it (default %(default)s)")
    packing.add_argument("--num_readers", type=int, default=None, help="processes that parse (default: one per core, at most 8)")
    packing.add_argument("--max_bad_lines", type=int, default=MAX_BAD_LINES, help="left out before it stops (default %(default)s)")
    making = commands.add_parser("generate", help="write the same format with a planted signal", allow_abbrev=False)
    making.add_argument("out", metavar="OUT", help="directory that gets train/ and test/")
    making.add_argument("--samples", type=int, default=400_000, help="in all (default %(default)s)")
    making.add_argument("--seed", type=int, default=0)
    making.add_argument("--held_out", type=float, default=0.1, help="share that goes to test/ (default %(default)s)")
    making.add_argument("--parts", type=int, default=2, help="files in train/ (default %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
