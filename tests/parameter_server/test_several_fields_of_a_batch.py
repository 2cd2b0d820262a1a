"""Fields of one batch that read one table or several: one message a server, the sums of plain Paddle, only used keys move."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bag_jobs
from servers import SECRET, Servers
from trainers import Trainers

import fleet
from fleet import training
from fleet.parameter_server import Embedding

MESSAGES = ("not announced", "by keys", "by a function")


@pytest.fixture(scope="module")
def trainers() -> Iterator[Trainers]:
    with Trainers(2, init=False) as started:
        yield started


def agree(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("num_servers", [1, 3])
def test_two_trainers_train_as_plain_paddle(trainers: Trainers, num_servers: int) -> None:
    expected = bag_jobs.alone()
    for announce in ("", *MESSAGES[1:]):
        with Servers(num_servers, world_size=2) as servers:
            parts = trainers.run("parameter_server.bag_jobs:train", servers=servers.addresses, secret=SECRET, announce=announce)
        for found, sent, steps in parts:
            agree(found, expected)
            assert steps == 5 * bag_jobs.EPOCHS
            assert sent["PUSH"] == steps * num_servers  # both tables in one message
            assert sent["PULL"] == steps * num_servers * (1 if announce else 3)  # three look-ups


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    for name in ("FLEET_SERVERS", "FLEET_WORLD_SIZE", "FLEET_RANK", "PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID"):
        monkeypatch.delenv(name, raising=False)
    fleet.init()

    def start(model: Any, inner: Any) -> Any:
        fleet.distributed_model(model)
        strategy = fleet.DistributedStrategy(parameter_server={"consistency": "sync"})
        return fleet.distributed_optimizer(inner, strategy=strategy)

    yield start
    fleet.shutdown()


def test_alone_it_is_plain_paddle_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLEET_WORLD_SIZE", "FLEET_RANK", "PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID"):
        monkeypatch.delenv(name, raising=False)
    expected = bag_jobs.alone()
    for announce in ("", *MESSAGES[1:]):
        agree(bag_jobs.train(announce=announce)[0], expected)


def test_a_field_that_is_not_used_does_not_take_part(job: Callable[..., Any]) -> None:
    """Under lazy Adam a key that is pushed moves, even by a gradient of zeros: one that was only announced must not."""
    model = nn.Sequential(Embedding(2, vocabulary=9))
    optimizer = job(model, paddle.optimizer.Adam(0.1, parameters=[paddle.create_parameter([1], "float32")], lazy_mode=True))
    layer, session = model[0], training.job().session
    fields = [np.array(ids, np.uint64) for ids in ([1, 2, 2], [3, 1], [4], [])]
    moved = []
    for used in ([0, 1, 2, 3], [0, 3], [1], [2, 0]):
        before = layer.download()
        session.announce({"0": fields}, create=True)
        sum((layer(fields[i]).sum() for i in used), paddle.zeros([])).backward()
        optimizer.step()
        optimizer.clear_grad()
        moved.append(np.flatnonzero((layer.download() != before).any(axis=1)).tolist())
    assert moved == [[1, 2, 3, 4], [1, 2], [1, 3], [1, 2, 4]]


def test_fields_with_the_same_ids(job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(Embedding(2, vocabulary=9))
    optimizer = job(model, paddle.optimizer.SGD(1.0, parameters=[paddle.create_parameter([1], "float32")]))
    layer, session = model[0], training.job().session
    layer.assign(np.ones((9, 2), np.float32))
    same = np.array([1, 2], np.uint64)
    pulls: list[int] = []
    ask = session.client.pull
    monkeypatch.setattr(session.client, "pull", lambda *given, **more: pulls.append(1) or ask(*given, **more))
    session.announce({"0": [same, same.copy(), np.array([2], np.uint64)]}, create=True)
    (layer(same).sum() + 2 * layer(same).sum() + 4 * layer(np.array([2], np.uint64)).sum() + 8 * layer(same).sum()).backward()
    optimizer.step()
    assert pulls == [1]
    np.testing.assert_array_equal(layer.download()[:4, 0], [1, 1 - 11, 1 - 15, 1])


def test_two_backwards_of_one_graph_and_a_step_between(job: Callable[..., Any]) -> None:
    model = nn.Sequential(Embedding(2, vocabulary=9))
    optimizer = job(model, paddle.optimizer.SGD(1.0, parameters=[paddle.create_parameter([1], "float32")]))
    layer, session = model[0], training.job().session
    layer.assign(np.zeros((9, 2), np.float32))
    some, other = np.array([1, 2], np.uint64), np.array([2, 3], np.uint64)
    session.announce({"0": [some, other]}, create=True)
    loss = layer(some).sum() + layer(other).sum()
    loss.backward(retain_graph=True)
    optimizer.step()  # and no clear_grad: what was pushed is pushed again, as in Paddle
    loss.backward()
    optimizer.step()
    np.testing.assert_array_equal(layer.download()[:4, 0], [0, -3, -6, -3])
