"""Row life as a script sees it, alone with the tables in its own process: clicks, padding, bags, evaluation, shrink."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
import pytest
from paddle import nn

import fleet
from fleet import training
from fleet.errors import ConfigError, TableError
from fleet.parameter_server import Embedding

Join = Callable[..., Any]


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch) -> Iterator[Join]:
    """Return a function that makes an embedding a job, alone; SGD with rate 1."""
    for name in ("FLEET_SERVERS", "FLEET_WORLD_SIZE", "FLEET_RANK", "PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID"):
        monkeypatch.delenv(name, raising=False)
    fleet.init()

    def start(**given: Any) -> tuple[Any, Any]:
        model = Embedding(2, initializer=nn.initializer.Constant(1.0), name="t", **given)
        fleet.distributed_model(model)
        strategy = fleet.DistributedStrategy(parameter_server={"consistency": "sync"})
        return model, fleet.distributed_optimizer(paddle.optimizer.SGD(1.0, parameters=model.parameters()), strategy=strategy)

    yield start
    fleet.shutdown()


def train(model: Any, optimizer: Any, ids: Any, **given: Any) -> Any:
    out = model(paddle.to_tensor(np.asarray(ids, np.int64)), **given)
    out.sum().backward()
    optimizer.step()
    optimizer.clear_grad()
    return out.numpy()


def rows_of(model: Any, *ids: int) -> list[float]:
    with paddle.no_grad():
        return [float(x) for x in model(paddle.to_tensor(np.array(ids, np.int64))).numpy()[:, 0]]


def num_rows() -> int:
    return int(training.job().session.client.status()[0]["tables"]["t"]["rows"])


def test_paddles_entry(join: Join) -> None:
    model, optimizer = join(entry=dist.CountFilterEntry(3))
    assert (train(model, optimizer, [[5, 5], [6, 7]]) == 0).all() and num_rows() == 0
    rows_of(model, 5, 5, 5, 5)  # a look at a row is no sighting
    train(model, optimizer, [[5, 6]])
    assert num_rows() == 1 and rows_of(model, 5, 6) == [0.0, 0.0]  # 1 less one gradient of 1; and zero
    train(model, optimizer, [[5, 6]])
    assert num_rows() == 2 and rows_of(model, 5, 6) == [-1.0, 0.0]


def test_unseen_ids_read_as_their_initial_value(join: Join) -> None:
    model, optimizer = join(admission={"by": "count", "count": 2, "unseen": "initial"})
    assert (train(model, optimizer, [5]) == 1).all() and rows_of(model, 5) == [1.0] and num_rows() == 0


def test_clicks_are_given_by_sample_by_id_or_by_bag(join: Join) -> None:
    model, optimizer = join(admission={"by": "score", "score": 2.0, "nonclick": 0.5, "click": 1.0}, padding_id=0)
    ids = [[1, 2, 0], [3, 2, 1]]
    train(model, optimizer, ids, clicks=paddle.to_tensor([[1], [0]]))  # scores: 1: 1.5, 2: 1.5, 3: 0.5
    assert num_rows() == 0
    train(model, optimizer, ids, clicks=np.array([[0, 1, 1], [0, 0, 0]]))  # 1: 2.5, 2: 3, 3: 1; padding counts nothing
    assert num_rows() == 2 and rows_of(model, 3) == [0.0]
    with pytest.raises(ConfigError, match="no clicks are given"):
        model(paddle.to_tensor([1]))
    with pytest.raises(TableError, match="5 clicks for 6 ids of 2 samples"):
        model(paddle.to_tensor(ids), clicks=np.zeros(5))
    with pytest.raises(TableError, match="clicks must be 0 or 1"):
        model(paddle.to_tensor(ids), clicks=np.full(2, 0.5))


def test_clicks_of_ragged_bags(join: Join) -> None:
    model, optimizer = join(admission={"by": "score", "score": 1.0, "nonclick": 0.1, "click": 1.0}, pooling="sum")
    out = train(model, optimizer, [4, 5, 6], lengths=paddle.to_tensor([2, 0, 1]), clicks=paddle.to_tensor([1, 1, 0]))
    assert out.tolist() == [[0, 0]] * 3 and num_rows() == 2 and rows_of_bags(model) == [0.0, 0.0, 0.0]


def rows_of_bags(model: Any) -> list[float]:
    with paddle.no_grad():
        return [float(x) for x in model(paddle.to_tensor([4, 5, 6]), lengths=paddle.to_tensor([1, 1, 1])).numpy()[:, 0]]


def test_clicks_that_nobody_counts_are_refused(join: Join) -> None:
    model, _ = join(eviction={"by": "age", "steps": 3})
    with pytest.raises(ConfigError, match="whose rows live without them"):
        model(paddle.to_tensor([1]), clicks=paddle.to_tensor([1]))


def test_a_row_that_is_too_old_begins_anew(join: Join) -> None:
    model, optimizer = join(eviction={"by": "age", "steps": 3})
    train(model, optimizer, [8, 9])
    for _ in range(3):
        train(model, optimizer, [9])
    assert rows_of(model, 8, 9) == [0.0, -3.0]
    train(model, optimizer, [9])
    assert rows_of(model, 8, 9) == [1.0, -4.0]
    assert (train(model, optimizer, [8]) == 1).all() and rows_of(model, 8) == [0.0]


def test_shrink_of_old_scripts(join: Join) -> None:
    with pytest.raises(ConfigError, match="no tables yet"):
        fleet.shrink()
    model, optimizer = join(eviction={"by": "score", "every": 100, "below": 0.5, "nonclick": 1.0})
    train(model, optimizer, [1, 1, 1, 2])
    assert num_rows() == 2 and fleet.shrink() == 0
    assert fleet.shrink(threshold=2.0) == 1 and num_rows() == 1


def test_shrink_where_nothing_is_ever_lost_is_refused(join: Join) -> None:
    join(admission={"by": "count", "count": 3})
    with pytest.raises(ConfigError, match="loses rows"):
        fleet.shrink()


def test_a_wrong_word_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="did you mean 'steps'"):
        Embedding(4, eviction={"by": "age", "step": 3})
