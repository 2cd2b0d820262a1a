"""``import fleet`` loads neither Paddle nor NumPy and costs little over bare Python; a server never loads Paddle."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

from several import alone, clean_environ

LOADED = "import json, sys; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"


def loaded(statement: str) -> set[str]:
    done = alone(f"{statement}\n{LOADED}")
    assert done.status == 0, done.err
    return set(json.loads(done.out))


def test_neither_paddle_nor_numpy() -> None:
    assert not loaded("import fleet; fleet.errors; fleet.init; fleet.DistributedStrategy()") & {"paddle", "numpy", "yaml"}


def test_a_server_never_loads_paddle() -> None:
    assert "paddle" not in loaded("import fleet.parameter_server.server")


def test_the_time_over_bare_python() -> None:
    def seconds(statement: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True, env=clean_environ(), stdin=subprocess.DEVNULL)
        return time.perf_counter() - begin

    pairs = [(seconds("pass"), seconds("import fleet")) for _ in range(5)]
    over = statistics.median(b - a for a, b in pairs)
    print(f"import fleet: {over * 1000:.0f} ms over bare Python")
    assert over < 0.3  # the promise is 0.1; three times that on a busy machine
