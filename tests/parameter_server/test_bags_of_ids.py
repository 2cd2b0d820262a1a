"""Ids of variable length: pooled, padded, weighted, ragged, as plain Paddle does it with a whole weight; alone and over servers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fleet
from fleet import training
from fleet.errors import ConfigError, TableError
from fleet.parameter_server import Embedding

VOCABULARY, DIM = 9, 4
ROWS = np.random.default_rng(1).standard_normal((VOCABULARY, DIM)).astype(np.float32)
Job = Callable[..., tuple[Any, Any]]


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    """Return a function that makes a table with rows ROWS a job of one trainer, with SGD at rate 1."""
    for name in ("FLEET_SERVERS", "FLEET_WORLD_SIZE", "FLEET_RANK", "PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID"):
        monkeypatch.delenv(name, raising=False)
    fleet.init()

    def start(**of_embedding: Any) -> tuple[Any, Any]:
        model = nn.Sequential(Embedding(DIM, vocabulary=VOCABULARY, **of_embedding))
        fleet.distributed_model(model)
        inner = paddle.optimizer.SGD(1.0, parameters=[paddle.create_parameter([1], "float32")])
        optimizer = fleet.distributed_optimizer(inner, strategy=fleet.DistributedStrategy(parameter_server={"consistency": "sync"}))
        model[0].assign(ROWS)
        return model[0], optimizer

    yield start
    fleet.shutdown()


def plain(weight: Any, bags: list[list[int]], pooling: str, weights: Any = None) -> Any:
    """Pool with Paddle's own operators; weights: a flat tensor."""
    rows, at = [], 0
    for bag in bags:
        each = paddle.ones([len(bag)]) if weights is None else weights[at : at + len(bag)]
        at += len(bag)
        if not bag:
            rows.append(paddle.zeros([DIM]))
            continue
        total = (nn.functional.embedding(paddle.to_tensor(bag), weight) * each.unsqueeze(1)).sum(axis=0)
        divisor = {"sum": paddle.ones([]), "mean": each.sum(), "sqrtn": (each * each).sum().sqrt()}[pooling]
        rows.append(total / divisor)
    return paddle.stack(rows)


def flat(bags: list[list[int]]) -> tuple[Any, Any]:
    values = paddle.to_tensor(np.array([i for bag in bags for i in bag], dtype=np.int64))
    return values, paddle.to_tensor(np.array([len(bag) for bag in bags], dtype=np.int64))


def check(embedding: Any, optimizer: Any, bags: list[list[int]], pooling: str, each: Any = None) -> None:
    """One step on the table and in plain Paddle from the same rows: results, rows and weights' gradients agree."""
    embedding.assign(ROWS)
    target = paddle.to_tensor(np.random.default_rng(len(bags)).standard_normal((len(bags), DIM)).astype(np.float32))
    weight = paddle.to_tensor(ROWS, stop_gradient=False)
    given, theirs = [None if each is None else paddle.to_tensor(each, stop_gradient=False) for _ in range(2)]
    expected = plain(weight, bags, pooling, theirs)
    (expected * target).sum().backward()
    values, lengths = flat(bags)
    found = embedding(values, lengths=lengths, weights=given)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=2e-6, atol=1e-6)
    (found * target).sum().backward()
    optimizer.step()
    optimizer.clear_grad()
    np.testing.assert_allclose(embedding.download(), (weight - weight.grad).numpy(), rtol=2e-6, atol=2e-6)
    if given is not None:
        np.testing.assert_allclose(given.grad.numpy(), theirs.grad.numpy(), rtol=1e-5, atol=1e-5)


all_bags = st.lists(st.lists(st.integers(0, VOCABULARY - 1), max_size=5), min_size=1, max_size=6).filter(any)


@pytest.mark.parametrize("pooling", ["sum", "mean", "sqrtn"])
def test_ragged_ids_as_in_plain_paddle(job: Job, pooling: str) -> None:
    embedding, optimizer = job(pooling=pooling)

    @settings(max_examples=25, deadline=None)
    @given(all_bags, st.booleans())
    def steps(bags: list[list[int]], weighted: bool) -> None:
        num = sum(map(len, bags))
        each = np.random.default_rng(num).uniform(0.5, 2, num).astype(np.float32) if weighted else None
        check(embedding, optimizer, bags, pooling, each)

    steps()


def test_a_batch_of_empty_bags(job: Job) -> None:
    embedding, optimizer = job(pooling="mean")
    out = embedding(paddle.zeros([0], "int64"), lengths=paddle.zeros([3], "int64"))
    assert out.shape == [3, DIM] and not out.numpy().any()
    out.sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(embedding.download(), ROWS)


def test_the_last_axis_is_a_bag(job: Job) -> None:
    embedding, _ = job(pooling="mean")
    x = np.array([[[1, 2, 2], [3, 3, 3]], [[0, 8, 4], [5, 6, 7]]])
    np.testing.assert_allclose(embedding(paddle.to_tensor(x)).numpy(), ROWS[x].mean(axis=2), rtol=1e-6, atol=1e-6)
    assert embedding(paddle.zeros([2, 0], "int64")).shape == [2, DIM]
    with pytest.raises(TableError, match="without an axis to pool over"):
        embedding(paddle.to_tensor(3))


@pytest.mark.parametrize("padding", [0, -1, 4, 77, 2**64 - 1])
def test_padding_counts_in_nothing(job: Job, padding: int) -> None:
    embedding, optimizer = job(pooling="mean", padding_id=padding)
    bags = [[1, 2], [], [3], [1, 1, 8]]
    wide = np.full((4, 3), padding, dtype=np.uint64 if padding > 100 else np.int64)
    for row, bag in zip(wide, bags, strict=True):
        row[: len(bag)] = bag
    given = wide if padding > 100 else paddle.to_tensor(wide)
    expected = np.stack([ROWS[bag].mean(axis=0) if bag else np.zeros(DIM, np.float32) for bag in bags])
    weights = paddle.ones([4, 3])
    weights.stop_gradient = False
    for each in (None, weights):
        out = embedding(given, weights=each)
        np.testing.assert_allclose(out.numpy(), expected, rtol=2e-6, atol=1e-6)
        out.sum().backward()
        optimizer.step()
        moved = (embedding.download() != ROWS).any(axis=1)
        assert np.flatnonzero(moved).tolist() == [1, 2, 3, 8]
        optimizer.clear_grad()
        embedding.assign(ROWS)
    assert (weights.grad.numpy()[wide == np.array(padding).astype(wide.dtype)] == 0).all() and weights.grad.numpy().any()


@pytest.mark.parametrize("index", [0, 3, -1])
def test_a_converted_padding_idx_is_paddles(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    for name in ("FLEET_SERVERS", "FLEET_WORLD_SIZE", "FLEET_RANK", "PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID"):
        monkeypatch.delenv(name, raising=False)
    x = paddle.to_tensor([[0, 3, 8], [5, 3, 0]])
    found = []
    for distributed in (False, True):
        model = nn.Sequential(nn.Embedding(VOCABULARY, DIM, padding_idx=index))
        optimizer = paddle.optimizer.SGD(0.5, parameters=model.parameters())
        model[0].weight.set_value(ROWS)  # the padding's row too: it reads as zeros whatever it holds
        if distributed:
            fleet.init()
            fleet.distributed_model(model)
            strategy = fleet.DistributedStrategy(parameter_server={"consistency": "sync"})
            optimizer = fleet.distributed_optimizer(optimizer, strategy=strategy)
        out = model[0](x)
        (out * out + out).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
        found += [out.numpy(), model[0].download() if distributed else model[0].weight.numpy()]
    fleet.shutdown()
    np.testing.assert_array_equal(found[2], found[0])
    np.testing.assert_allclose(found[3], found[1], rtol=1e-6, atol=1e-6)
    assert not found[2][x.numpy() == index % VOCABULARY].any()


def test_an_embedding_used_in_several_places(job: Job) -> None:
    embedding, optimizer = job(pooling="sum")
    weight = paddle.to_tensor(ROWS, stop_gradient=False)
    places = [[[1, 2], [2]], [[2, 2, 3], []], [[1, 2], [2]]]
    (plain(weight, places[0], "sum") * 2 + plain(weight, places[1], "sum") + plain(weight, places[2], "sum")).sum().backward()
    found = [embedding(*flat(bags)) for bags in places]
    (found[0] * 2 + found[1] + found[2]).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(embedding.download(), (weight - weight.grad).numpy(), rtol=2e-6, atol=2e-6)


BAD = [
    (dict(lengths=[1, 1]), "the lengths of 2 bags add up to 2, but there are 3 ids"),
    (dict(lengths=[2**62, 2**62, 2**62, 2**62, 3]), "add up to 18446744073709551619, but there are 3 ids"),
    (dict(lengths=[4, -1]), "length -1 at position 1 is negative"),
    (dict(lengths=[1.0, 2.0]), "lengths must be integers, got float"),
    (dict(lengths=[3], weights=[1.0, 2.0]), "2 weights of type float32 for 3 ids"),
    (dict(lengths=[3], weights=[1.0, float("nan"), 2.0]), "1 of 3 weights are not finite: nan at position 1"),
    (dict(lengths=[3], weights=[1.0, 2.0, float("inf")]), "inf at position 2"),
]


@pytest.mark.parametrize("bad, words", BAD)
def test_what_does_not_add_up(job: Job, bad: dict[str, Any], words: str) -> None:
    embedding, _ = job(pooling="mean")
    x = paddle.to_tensor([1, 2, 2])
    before = training.job().session.client.status()
    with pytest.raises(TableError, match=words) as caught:
        embedding(x, **{name: paddle.to_tensor(value) for name, value in bad.items()})
    assert caught.value.at == "table '0'"
    assert training.job().session.client.status() == before


def test_ids_beside_the_padding_are_checked(job: Job) -> None:
    embedding, _ = job(pooling="sum", padding_id=-1)
    with pytest.raises(TableError, match="id -2 at position 2 is negative"):
        embedding(np.array([[1, -1, -2]]))
    with pytest.raises(TableError, match="id 9 at position 1 is outside the vocabulary of 9"):
        embedding(np.array([[-1, 9]]))


def test_what_cannot_be_asked_for(job: Job) -> None:
    for wrong, words in ((dict(pooling="max"), "pooling must be one of sum, mean, sqrtn or None"),
                         (dict(padding_id=1.5), "padding_id must be an int"), (dict(padding_id=2**64), "of 64 bits")):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            Embedding(DIM, **wrong)
    embedding, _ = job()
    for extra in ("lengths", "weights"):
        with pytest.raises(ConfigError, match=f"{extra} are given to an embedding without pooling"):
            embedding(paddle.to_tensor([1]), **{extra: paddle.to_tensor([1])})
