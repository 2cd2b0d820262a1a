"""all_reduce, all_gather and broadcast of tensors: right, or a ConfigError. Gloo itself ends the process on some dtypes."""

from __future__ import annotations

import pytest
from trainers import Trainers

FLOATS = ["float16", "bfloat16", "float32", "float64"]
WIDE = ["int32", "int64"]
NARROW = ["int8", "uint8", "int16", "bool"]
EXPECTED = {"sum": [3.0, 0.0, 9.0], "mean": [1.5, 0.0, 4.5], "max": [2.0, 0.0, 6.0], "min": [1.0, 0.0, 3.0]}


@pytest.mark.parametrize("dtype", [*FLOATS, *WIDE, *NARROW])
def test_all_reduce(pair: Trainers, dtype: str) -> None:
    for op, expected in EXPECTED.items():
        refused = (op == "mean" and dtype not in FLOATS) or (op == "sum" and dtype in NARROW)
        for got in pair.run("collective.jobs:group_call", op=op, dtype=dtype):
            if refused:
                assert f"a {op} of {dtype}" in got and "cast" in got
            else:
                assert got == (dtype, [float(v > 0) for v in expected] if dtype == "bool" else expected)


@pytest.mark.parametrize("dtype", [*FLOATS, *WIDE, *NARROW])
def test_all_gather_and_broadcast(pair: Trainers, dtype: str) -> None:
    two = 1 if dtype == "bool" else 2
    for gathered, got in pair.run("collective.jobs:group_moves", dtype=dtype):
        assert gathered == [[[1], [0]], [[two], [0]]]
        assert got == [[two], [0]]


def test_other_dtypes_and_ops_are_refused(pair: Trainers) -> None:
    for words in pair.run("collective.jobs:group_call", op="sum", dtype="complex64"):
        assert "cannot send a tensor of complex64" in words
    for words in pair.run("collective.jobs:group_call", op="product", dtype="float32"):
        assert "sum, mean, max, min" in words


def test_shapes(pair: Trainers) -> None:
    for got in pair.run("collective.jobs:group_shapes"):
        assert got["empty"] == [0, 3]
        assert got["scalar"] == ([], 2.0)
        assert got["strided"] == [[0.0, 6.0], [2.0, 8.0], [4.0, 10.0]]
        assert got["detached"]
        assert "float32[2]" in got["words"] and "float32[1]" in got["words"]


def test_nothing_of_paddles_greetings_is_printed(pair: Trainers) -> None:
    pair.run("collective.jobs:group_shapes")
    assert "[Gloo]" not in pair.log(0) and "tcp_store" not in pair.log(1)


def test_one_trainer_alone_needs_no_group() -> None:
    with Trainers(1) as alone:
        assert alone.run("collective.jobs:group_call", op="mean", dtype="float32") == [("float32", [1.0, 0.0, 3.0])]
        result = alone.run("collective.jobs:compare", build="two_layers", steps="several_under_no_sync")[0]
        assert all((a == b).all() for a, b in zip(result["got"], result["expected"], strict=True))
        assert alone.run("collective.jobs:what_a_lone_trainer_opens") == [[]]
