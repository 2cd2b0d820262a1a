"""Make the tables beside this file anew: ``python tests/parameter_server/paddle262/make.py``.

Needs the network once: it installs Paddle 2.6.2, the last wheel with a parameter server, in an environment of its own.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "benchmarks"))

from parts import paddle262  # noqa: E402

# accessor, rule of both parts of a row, weights of a row, embedx_threshold, modes of save_persistables
TABLES = (
    ("SparseAccessor", "SparseNaiveSGDRule", 3, 0, "0"),
    ("SparseAccessor", "SparseAdamSGDRule", 3, 0, "0"),
    ("SparseAccessor", "SparseSharedAdamSGDRule", 4, 0, "0"),
    ("CtrCommonAccessor", "SparseAdaGradSGDRule", 4, 1, "0,1"),  # rows of a score below 1 have one weight
    ("CtrCommonAccessor", "StdAdaGradSGDRule", 5, 0, "0,2,3"),
)

for accessor, rule, *others in TABLES:
    target = HERE / rule
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "out"
        said = paddle262.run(HERE / "job.py", [str(target), accessor, rule, *map(str, others)], out)
        if "RESULT saved" not in said:
            raise SystemExit(said)
    print(target, sum(path.stat().st_size for path in target.rglob("*") if path.is_file()), "bytes")
