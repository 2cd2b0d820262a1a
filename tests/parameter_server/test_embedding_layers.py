"""Embeddings as a script sees them: converted in place or made by hand, alone with the tables in its own process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

import fleet
from fleet import runtime, training
from fleet.errors import ConfigError, TableError
from fleet.parameter_server import Embedding, session

Join = Callable[..., Any]


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch) -> Iterator[Join]:
    """Return a function that makes a model and an optimizer a job, alone; SGD with rate 1 unless given."""
    for name in ("FLEET_SERVERS", "FLEET_WORLD_SIZE", "FLEET_RANK", "PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID"):
        monkeypatch.delenv(name, raising=False)
    fleet.init()

    def start(model: nn.Layer, optimizer: Any = None, **block: Any) -> Any:
        fleet.distributed_model(model)
        inner = optimizer or paddle.optimizer.SGD(1.0, parameters=model.parameters())
        strategy = fleet.DistributedStrategy(parameter_server={"consistency": "sync", **block})
        return fleet.distributed_optimizer(inner, strategy=strategy)

    yield start
    fleet.shutdown()


class Net(nn.Layer):
    """One table, one dense layer."""

    def __init__(self, embedding: Any) -> None:
        super().__init__()
        self.embedding, self.out = embedding, nn.Linear(3, 1)

    def forward(self, x: Any) -> Any:
        return self.out(self.embedding(x))


def table_of(dim: int = 3, **given: Any) -> Net:
    given.setdefault("initializer", nn.initializer.Constant(1.0))
    return Net(Embedding(dim, **given))


def rows_of(embedding: Any, ids: Any) -> Any:
    with paddle.no_grad():
        return embedding(np.asarray(ids, dtype=np.uint64)).numpy()


def num_rows(name: str = "embedding") -> int:
    return int(training.job().session.client.status()[0]["tables"][name]["rows"])


def ids(*values: int) -> Any:
    return paddle.to_tensor(np.array(values, dtype=np.int64))


# Conversion


def test_conversion_is_in_place(join: Join) -> None:
    model = Net(nn.Embedding(10, 3))
    layer, weight, names = model.embedding, model.embedding.weight.numpy(), [n for n, _ in model.named_sublayers()]
    optimizer = join(model)
    assert model.embedding is layer and isinstance(layer, Embedding) and [n for n, _ in model.named_sublayers()] == names
    np.testing.assert_array_equal(layer.download(), weight)
    np.testing.assert_array_equal(layer(ids(3, 3, 9)).numpy(), weight[[3, 3, 9]])
    assert [p.name for p in model.parameters()] == [p.name for p in model.out.parameters()]
    assert [p.name for p in optimizer.inner._parameter_list] == [p.name for p in model.out.parameters()]
    assert "table='embedding'" in repr(layer)


def test_a_hook_of_the_user_goes_on(join: Join) -> None:
    model, calls = Net(nn.Embedding(10, 3)), []
    model.embedding.register_forward_post_hook(lambda layer, given, out: calls.append(tuple(out.shape)))
    join(model)
    model(ids(1, 2))
    assert calls == [(2, 3)]


def test_eval_before_the_conversion_stays(join: Join) -> None:
    model = Net(nn.Embedding(10, 3))
    model.eval()
    join(model)
    assert not model.embedding.training


def test_the_weight_is_refused_with_its_reason(join: Join) -> None:
    model = Net(nn.Embedding(10, 3))
    join(model)
    with pytest.raises(ConfigError, match="the weight of table 'embedding' is on the servers") as caught:
        _ = model.embedding.weight
    assert "fleet.save" in caught.value.fix


def test_a_shared_weight_is_refused(join: Join) -> None:
    model = nn.Sequential(nn.Embedding(10, 3), nn.Embedding(10, 3))
    model[1].weight = model[0].weight
    with pytest.raises(ConfigError, match="the weight of the embedding is shared by '0' and '1'"):
        join(model)


def test_a_frozen_embedding_stays_local(join: Join) -> None:
    model = Net(nn.Embedding(10, 3))
    model.embedding.weight.stop_gradient = True
    before = model.embedding.weight.numpy()
    optimizer = join(model)
    assert type(model.embedding) is nn.Embedding
    model(ids(1, 2)).sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(model.embedding.weight.numpy(), before)


@pytest.mark.parametrize("make, words", [
    (lambda p: paddle.optimizer.Lamb(0.1, parameters=p), "cannot follow Lamb: its trust ratio needs the norm of the whole weight"),
    (lambda p: paddle.optimizer.Adadelta(0.1, parameters=p), "cannot follow Adadelta: it has no row form here"),
    (lambda p: paddle.optimizer.SGD(0.1, parameters=p, grad_clip=nn.ClipGradByGlobalNorm(1.0)),
     "ClipGradByGlobalNorm needs the norm of the whole gradient"),
    (lambda p: paddle.optimizer.SGD(0.1, parameters=p, grad_clip=nn.ClipGradByNorm(1.0)), "ClipGradByNorm needs the norm"),
    (lambda p: paddle.optimizer.SGD(0.1, parameters=p, weight_decay=paddle.regularizer.L1Decay(0.1)), "know L2Decay, not L1Decay"),
    (lambda p: paddle.optimizer.AdamW(0.1, parameters=p, amsgrad=True), "amsgrad is not in this version"),
])  # fmt: skip
def test_optimizers_that_rows_cannot_follow(join: Join, make: Callable[[Any], Any], words: str) -> None:
    model = table_of()
    with pytest.raises(ConfigError, match=words):
        join(model, make(model.parameters()))


# Ids


@pytest.mark.parametrize("given, words", [
    (np.array([1, 10]), "id 10 at position 1 is outside the vocabulary of 10"),
    (np.array([[1, 2], [-3, 4]]), "id -3 at position 2 is negative"),
    (np.array([1.0, 2.0]), "ids must be integers, got float64"),
    (np.array([True]), "ids must be integers, got bool"),
    (np.array([2**64 - 1], np.uint64), "outside the vocabulary"),
])  # fmt: skip
def test_ids_that_are_none(join: Join, given: Any, words: str) -> None:
    model = Net(nn.Embedding(10, 3))
    join(model)
    before = model.embedding.download()
    for x in (given, paddle.to_tensor(given)) if given.dtype != np.uint64 else (given,):
        with pytest.raises(TableError, match=words.replace("float64", "float..")) as caught:
            model.embedding(x)
        assert caught.value.at == "table 'embedding'"
    np.testing.assert_array_equal(model.embedding.download(), before)


def test_ids_up_to_the_largest_uint64(join: Join) -> None:
    model = table_of()
    optimizer = join(model)
    x = np.array([0, 2**63, 2**64 - 1, 2**64 - 1], np.uint64)
    model.embedding(x).sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(rows_of(model.embedding, x)[:, 0], [0, 0, -1, -1])
    assert num_rows() == 3


@pytest.mark.parametrize("dim", [1, 8, 17, 1000])
def test_shapes_of_ids_and_dims(join: Join, dim: int) -> None:
    model = nn.Sequential(Embedding(dim))
    join(model)
    for shape in ((), (1,), (4, 3), (2, 1, 3), (0,), (0, 5)):
        out = model[0](paddle.zeros(shape, dtype="int64"))
        assert out.shape == [*shape, dim] and out.dtype == paddle.float32
    assert num_rows("0") == 1


def test_a_batch_without_ids_takes_part(join: Join) -> None:
    model = table_of()
    optimizer = join(model)
    (model(paddle.zeros([0], dtype="int64")).sum() + model(ids(5)).sum() * 0).backward()
    optimizer.step()
    assert num_rows() == 1


# Which rows are made


@pytest.mark.parametrize("how", ["eval", "no_grad"])
def test_looking_only_makes_no_row(join: Join, how: str) -> None:
    model = table_of()
    join(model)
    if how == "eval":
        model.eval()
        seen = model.embedding(ids(1, 2, 3))
    else:
        with paddle.no_grad():
            seen = model.embedding(ids(1, 2, 3))
    assert (seen.numpy() == 1).all() and num_rows() == 0
    model.train()
    model.embedding(ids(1, 2))
    assert num_rows() == 2


def test_a_row_that_was_read_before_begins_the_same(join: Join) -> None:
    model = table_of(initializer=nn.initializer.Normal(0.0, 1.0))
    join(model)
    before = rows_of(model.embedding, [7, 8])
    np.testing.assert_array_equal(model.embedding(ids(7, 8)).numpy(), before)
    assert (before[0] != before[1]).all()


# Steps


def twin(ids_of_steps: list[list[Any]], run: Callable[[Any, Any, list[Any]], None], join: Join, **block: Any) -> None:
    """Run the same steps on an nn.Embedding in plain Paddle and on a table; all rows must agree."""
    weight = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    local = Net(nn.Embedding(20, 3))
    table = Net(nn.Embedding(20, 3))
    for model in (local, table):
        model.embedding.weight.set_value(weight)
        model.out.weight.set_value(np.ones((3, 1), np.float32))
        model.out.bias.set_value(np.zeros(1, np.float32))
    plain = paddle.optimizer.SGD(0.1, parameters=local.parameters())
    optimizer = join(table, paddle.optimizer.SGD(0.1, parameters=table.parameters()), **block)
    for step in ids_of_steps:
        run(local, plain, step)
        run(table, optimizer, step)
    np.testing.assert_allclose(table.embedding.download(), local.embedding.weight.numpy(), rtol=2e-6, atol=1e-7)
    assert np.abs(local.embedding.weight.numpy() - weight).max() > 0.01


def loss_of(model: Any, *batches: Any) -> Any:
    return sum((model(b) ** 2).sum() for b in batches)


STEPS = [[ids(1, 2, 2), ids(2, 3)], [ids(2), ids(9, 1, 1, 1)], [ids(4, 5), ids(4, 5)]]


def test_an_embedding_called_twice_in_a_step(join: Join) -> None:
    def run(model: Any, optimizer: Any, batches: list[Any]) -> None:
        loss_of(model, *batches).backward()
        optimizer.step()
        optimizer.clear_grad()

    twin(STEPS, run, join)


def test_two_backwards_and_one_step(join: Join) -> None:
    def run(model: Any, optimizer: Any, batches: list[Any]) -> None:
        for batch in batches:
            loss_of(model, batch).backward()
        optimizer.step()
        optimizer.clear_grad()

    twin(STEPS, run, join)


def test_the_rows_used_twice_and_one_graph_walked_twice(join: Join) -> None:
    def run(model: Any, optimizer: Any, batches: list[Any]) -> None:
        rows = model.embedding(batches[0])
        loss = (rows * rows).sum() + model.out(rows).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()

    twin(STEPS, run, join)


def test_clear_grad_without_a_step_drops_the_gradients(join: Join) -> None:
    def run(model: Any, optimizer: Any, batches: list[Any]) -> None:
        loss_of(model, batches[0]).backward()
        optimizer.clear_grad()
        loss_of(model, batches[1]).backward()
        optimizer.step()
        optimizer.clear_grad()

    twin(STEPS, run, join)


def test_a_step_that_forgets_to_clear_adds_up_as_in_paddle(join: Join) -> None:
    def run(model: Any, optimizer: Any, batches: list[Any]) -> None:
        loss_of(model, batches[0]).backward()
        optimizer.step()

    twin(STEPS, run, join)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("prefetch", [0, 1])
def test_announced_ids(join: Join, monkeypatch: pytest.MonkeyPatch, mode: str, prefetch: int) -> None:
    """Announced as a loader does, one batch ahead: no warning, and in sync (or without prefetch) nothing is missed."""
    warnings: list[str] = []
    monkeypatch.setattr(session.logger, "warning", warnings.append)
    batches = [ids(1, 2, 2), ids(2, 3), ids(4), ids(2, 2)]

    def run(model: Any, optimizer: Any, step: list[Any]) -> None:
        told = isinstance(model.embedding, Embedding)
        coming = iter(step)

        def announce() -> None:
            batch = next(coming, None)
            if told and batch is not None:
                training.job().session.announce({"embedding": model.embedding.look(batch).ids}, create=True)

        announce()
        for batch in step:
            announce()
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.clear_grad()

    if mode == "sync" or prefetch == 0:
        twin([batches, batches], run, join, consistency=mode, prefetch=prefetch)
    else:
        with pytest.raises(AssertionError, match="Not equal to tolerance"):  # one step of staleness on ids that neighbours share
            twin([batches, batches], run, join, consistency=mode, prefetch=prefetch)
    assert warnings == []


def test_ids_that_were_not_announced_are_pulled_with_one_warning(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(session.logger, "warning", warnings.append)
    model = table_of()
    optimizer = join(model)
    for step in range(3):
        training.job().session.announce({"embedding": np.array([100 + step], np.uint64)}, create=True)
        loss_of(model, ids(step)).backward()
        optimizer.step()
        optimizer.clear_grad()
    assert len(warnings) == 1 and "table 'embedding': other ids than the loader announced" in warnings[0]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_announced_batch_that_is_never_used(join: Join, mode: str) -> None:
    """A loop that breaks off leaves a batch behind; the next epoch is not fed with its rows."""
    model = table_of()
    optimizer = join(model, consistency=mode)
    this = training.job().session
    for _ in range(3):
        this.announce({"embedding": np.array([1], np.uint64)}, create=True)
        this.announce({"embedding": np.array([2], np.uint64)}, create=True)  # the loop breaks before this one
        model.embedding(ids(1)).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    np.testing.assert_array_equal(rows_of(model.embedding, [1, 2])[:, 0], [1 - 3, 1])


def test_evaluation_behind_the_last_batch_sees_its_push(join: Join) -> None:
    """In async the rows asked for ahead are stale by one step: only for the batch that they were asked for."""
    model = table_of()
    optimizer = join(model, consistency="async")
    this = training.job().session
    for _ in range(2):
        this.announce({"embedding": np.array([1], np.uint64)}, create=True)
        model.embedding(ids(1)).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    assert rows_of(model.embedding, [1])[0, 0] == -1


def test_an_empty_part_of_a_batch_counts_nothing(join: Join) -> None:
    model = table_of()
    optimizer = join(model)
    runtime.current("test").share = runtime.Share(0, 8)
    model.embedding(ids(1)).sum().backward()
    optimizer.step()
    assert (rows_of(model.embedding, [1]) == 1).all()
    runtime.current("test").share = runtime.Share(2, 8)
    model.embedding(ids(1)).sum().backward()
    optimizer.step()
    assert (rows_of(model.embedding, [1]) == 0.75).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite(join: Join, value: float) -> None:
    model = table_of()
    optimizer = join(model)
    (model.embedding(ids(1, 2)) * value).sum().backward()
    optimizer.step()
    with pytest.raises(TableError, match="6 NaN or infinite gradient values for table 'embedding' from trainer 0"):
        model.embedding(ids(1))


def test_a_look_up_before_the_job_is_known() -> None:
    with pytest.raises(ConfigError, match="this embedding has no table yet"):
        Embedding(4)(ids(1))


@pytest.mark.parametrize("given", [dict(dim=0), dict(dim=2.0), dict(dim=65537), dict(dim=True), dict(dim=4, vocabulary=-1),
                                   dict(dim=4, initializer=nn.initializer.XavierNormal())])  # fmt: skip
def test_impossible_embeddings(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Embedding(**given)


def test_the_model_itself_is_the_embedding(join: Join) -> None:
    model = nn.Embedding(10, 3)
    weight = model.weight.numpy()
    optimizer = join(model)
    model(ids(4)).sum().backward()
    optimizer.step()
    optimizer.clear_grad()  # no parameter is left to Paddle's optimizer, which would fail on its empty list
    np.testing.assert_allclose(model.download()[4], weight[4] - 1, rtol=1e-6)
