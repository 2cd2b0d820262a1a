"""Score raw lines of the Criteo format with what train.py exported: no server, no launcher.

    python examples/ctr/infer.py data/ctr/*/test > scores.txt     # one probability a line
"""

import argparse
import sys
import time

from fleet.data import criteo
from fleet.parameter_server import Frozen

parser = argparse.ArgumentParser()
parser.add_argument("files", nargs="+", help="raw text, plain or gzipped, or directories of it")
parser.add_argument("--served", default="data/ctr/served", help="what train.py exported")
parser.add_argument("--batch_size", type=int, default=4096)
parser.add_argument("--num_buckets", type=int, default=200_003, help="of the training, if it ran without servers")
args = parser.parse_args()

model = Frozen(args.served)
table = model.tables.get("embedding")  # ids are made as they were for training
num_buckets = table.spec.vocabulary if table else args.num_buckets

began, samples = time.perf_counter(), 0
for batch in criteo.read(args.files, batch_size=args.batch_size, num_buckets=num_buckets, max_bad_lines=0):
    scores = model(batch["ids"], batch["dense"]).sigmoid().numpy()
    sys.stdout.write("".join(f"{score:.9g}\n" for score in scores))
    samples += len(scores)
print(f"{samples} lines, {samples / (time.perf_counter() - began):.0f} lines/s", file=sys.stderr)
