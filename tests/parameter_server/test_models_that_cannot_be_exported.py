"""fleet.export refuses what it cannot do, says what to do instead, and leaves the model and the directory as they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

import fleet
from fleet.errors import ConfigError
from fleet.parameter_server import Embedding, Frozen

SPEC = [paddle.static.InputSpec([None, 2], "int64", "ids")]


class Net(nn.Layer):
    """A table and a forward that a test gives."""

    def __init__(self, work: Any = None) -> None:
        super().__init__()
        self.table, self.out, self.work = Embedding(3, vocabulary=100), nn.Linear(3, 1), work

    def forward(self, ids: Any) -> Any:
        rows = self.table(ids)
        return self.out(rows) if self.work is None else self.work(self, ids, rows)


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("FLEET_SERVERS", "FLEET_WORLD_SIZE", "FLEET_RANK", "PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID"):
        monkeypatch.delenv(name, raising=False)
    fleet.init()

    def start(model: Any) -> Any:
        fleet.distributed_model(model)
        strategy = fleet.DistributedStrategy(parameter_server={"consistency": "sync"})
        fleet.distributed_optimizer(paddle.optimizer.SGD(0.1, parameters=model.parameters()), strategy=strategy)
        return model

    yield start
    fleet.shutdown()


def python_on_values(net: Any, ids: Any, rows: Any) -> Any:
    return net.out(rows) * {0: 1.0, 1: 2.0}[int(ids.numpy()[0, 0]) % 2]


def rows_choose_ids(net: Any, ids: Any, rows: Any) -> Any:
    return net.table((rows.sum(axis=-1) * 10).astype("int64"))


def inputs_ignored(net: Any, ids: Any, rows: Any) -> Any:
    return net.out(paddle.ones([4, 3]))


@pytest.mark.parametrize("work, what", [(python_on_values, "cannot trace"), (rows_choose_ids, "rows of another one"),
                                        (inputs_ignored, "depend on no input")])  # fmt: skip
def test_forward(join: Any, tmp_path: Path, work: Any, what: str) -> None:
    model = join(Net(work))
    with pytest.raises(ConfigError, match=what):
        fleet.export(model, str(tmp_path / "out"), input_spec=SPEC)
    assert list(tmp_path.iterdir()) == []
    assert type(model.table) is Embedding and model.training and "forward" not in model.table.__dict__
    assert model.table(np.zeros((2, 2), np.int64)).shape == [2, 2, 3]


@pytest.mark.parametrize("given, what", [
    (dict(input_spec=None), "input_spec must be a list"),
    (dict(input_spec=["ids"]), "holds a str"),
    (dict(input_spec=SPEC, rows="int8"), "rows must be one of"),
])  # fmt: skip
def test_arguments(join: Any, tmp_path: Path, given: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        fleet.export(join(Net()), str(tmp_path / "out"), **given)


def test_a_directory_of_something_else_stays(join: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ConfigError, match="holds something else"):
        fleet.export(join(Net()), str(tmp_path), input_spec=SPEC)
    assert (tmp_path / "mine").read_text() == "precious"


def test_what_frozen_is_called_with(join: Any, tmp_path: Path) -> None:
    model = join(Net())
    fleet.export(model, str(tmp_path / "out"), input_spec=SPEC, rows="bfloat16")
    frozen = Frozen(str(tmp_path / "out"))
    assert frozen(np.zeros((5, 2), np.int32)).shape == [5, 2, 1]
    for given, what in (((), "expected 1 values, got 0"), ((np.zeros((5, 3), np.int64),), r"shape \[5, 3\]"),
                        ((np.zeros((5, 2), np.float32),), "is float32")):  # fmt: skip
        with pytest.raises(ConfigError, match=what):
            frozen(*given)


def test_a_model_without_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.init()
    try:
        model = fleet.distributed_model(nn.Linear(2, 1))
        fleet.export(model, str(tmp_path / "out"), input_spec=[paddle.ones([7, 2])])
        x = paddle.rand([3, 2])
        np.testing.assert_array_equal(Frozen(str(tmp_path / "out"))(x).numpy(), model(x).numpy())
    finally:
        fleet.shutdown()


def test_ids_beyond_2_to_the_63(join: Any, tmp_path: Path) -> None:
    class Open(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.table = Embedding(3)

        def forward(self, ids: Any) -> Any:
            return self.table(ids).sum(axis=-1)

    model = join(Open())
    ids = np.array([[1, (1 << 64) - 1], [1 << 63, 5]], np.uint64)
    model(ids)  # makes the rows
    fleet.export(model, str(tmp_path / "out"), input_spec=[ids])
    model.eval()
    with paddle.no_grad():
        np.testing.assert_array_equal(Frozen(str(tmp_path / "out"))(ids).numpy(), model(ids).numpy())
