"""all_reduce, all_gather and broadcast of Python numbers and NumPy arrays between processes that never load Paddle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from several import alone, trainers

SCRIPT = """
import json, sys
import numpy as np
from fleet.errors import ConfigError
rank, n = fleet.rank(), fleet.world_size()
out = {}
for op in ("sum", "mean", "max", "min"):
    out[op] = [repr(fleet.all_reduce(v, op)) for v in (rank + 1, (rank + 1) / 2)]
    for dtype in ("int32", "int64", "uint8", "float16", "float32", "float64"):
        given = np.arange(3, dtype=dtype) + np.asarray(rank, dtype)
        found = fleet.all_reduce(given, op)
        want = getattr(np, op)([np.arange(3, dtype=dtype) + np.asarray(r, dtype) for r in range(n)], axis=0)
        assert found.dtype == (want.dtype if op == "mean" else given.dtype), (op, dtype, found.dtype)
        assert np.array_equal(found, want.astype(found.dtype)), (op, dtype, found, want)
        assert np.array_equal(given, np.arange(3, dtype=dtype) + np.asarray(rank, dtype))  # the input is left alone
out["bool"] = [repr(fleet.all_reduce(rank == 0, op)) for op in ("max", "min")]
out["gather"] = repr(fleet.all_gather(rank * 1.5))
out["gathered"] = [a.tolist() for a in fleet.all_gather(np.full((2, 1), rank, "int16"))]
out["broadcast"] = repr([fleet.broadcast(10 * rank, source) for source in range(n)])
out["empty"] = fleet.all_reduce(np.empty((0, 3), "float32")).shape
out["scalar"] = repr(type(fleet.all_reduce(np.float32(rank))).__name__)
fleet.barrier()
for wrong in (lambda: fleet.all_reduce(np.zeros(2 + rank)), lambda: fleet.all_gather(np.zeros(2, "f4" if rank else "f8")),
              lambda: fleet.broadcast(np.zeros((1, 2 + rank)))):
    try:
        wrong()
        raise SystemExit("was not refused")
    except ConfigError as error:
        assert f"trainer {1 - rank if rank < 2 else 0} gave" in str(error) and f"trainer {rank} gave" in str(error), error
assert "paddle" not in sys.modules
print(json.dumps(out))
"""


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_trainer_gets_the_same(tmp_path: Path, world_size: int) -> None:
    done = trainers(tmp_path, SCRIPT, world_size)
    assert [d.status for d in done] == [0] * world_size, done
    found = [json.loads(d.out) for d in done]
    assert all(f == found[0] for f in found)
    total = sum(range(1, world_size + 1))
    assert found[0]["sum"] == [repr(total), repr(total / 2)]
    assert found[0]["mean"] == [repr(total / world_size), repr(total / 2 / world_size)]
    assert (found[0]["max"][0], found[0]["min"][0]) == (repr(world_size), "1")
    assert found[0]["bool"] == ["True", "False"]
    assert found[0]["gather"] == repr([r * 1.5 for r in range(world_size)])
    assert found[0]["gathered"] == [[[r], [r]] for r in range(world_size)]
    assert found[0]["broadcast"] == repr([10 * r for r in range(world_size)])
    assert found[0]["empty"] == [0, 3] and found[0]["scalar"] == "'float32'"


def test_alone() -> None:
    done = alone("""
        import fleet
        import numpy as np
        fleet.init()
        assert fleet.all_reduce(3) == 3 and fleet.all_gather(2.5) == [2.5] and fleet.broadcast(7) == 7
        assert fleet.all_reduce(np.arange(3)).tolist() == [0, 1, 2]
        fleet.barrier()
    """)
    assert done.status == 0, done.err


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("fleet.all_reduce(1, 'avg')", "op must be one of sum, mean, max, min, got 'avg'"),
        ("fleet.all_reduce('text')", "cannot send a str"),
        ("fleet.all_gather(None)", "cannot send a NoneType"),
        ("fleet.all_gather(numpy.array([object()]))", "Python objects"),
        ("fleet.broadcast(1, source=1)", "there is no trainer 1"),
        ("fleet.broadcast(1, source=-1)", "there is no trainer -1"),
    ],
)
def test_what_cannot_be_sent(call: str, words: str) -> None:
    done = alone(f"import fleet, numpy\nfleet.init()\n{call}")
    assert done.status == 1 and words in done.err and "fix:" in done.err and "ConfigError" in done.err


@pytest.mark.parametrize(
    "call",
    [
        "rank()",
        "world_size()",
        "local_rank()",
        "is_server()",
        "barrier()",
        "all_reduce(1)",
        "broadcast(1)",
        "log(loss=1)",
        "worker_index()",
    ],
)
def test_before_init(call: str) -> None:
    import fleet
    from fleet.errors import ConfigError

    assert not fleet.is_initialized()
    with pytest.raises(ConfigError, match=r"before fleet.init\(\)"):
        eval("fleet." + call)
