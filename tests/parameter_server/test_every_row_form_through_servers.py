"""Every row optimizer, stored form and initializer gives the same rows on 1, 2 and 3 servers as a table in this process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import paddle
import pytest
from paddle.nn import initializer as init
from servers import Servers, spec

from fleet.errors import ConfigError, TableError
from fleet.parameter_server import Embedding, initial_values, native
from fleet.parameter_server.client import Client, RowGradient
from fleet.parameter_server.spec import INITIALIZERS, OPTIMIZERS, STATES, WEIGHTS, TableSpec

IDS = np.array([0, 1, 7, 2**40, 2**63, 2**64 - 1, 12345, 99], np.uint64)
ARGS = {"uniform": (-0.5, 0.25), "normal": (0.1, 0.2), "constant": (0.5, 0.0)}


@pytest.fixture(scope="module", params=[1, 2, 3])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    with Servers(request.param) as servers:
        yield servers.client()


def local(table: TableSpec, grads: list[np.ndarray]) -> np.ndarray:
    rows = table.make(native.load())
    for step, g in enumerate(grads, 1):
        rows.push(IDS, g, 0.1, step)
    out = np.empty((len(IDS), table.dim), np.float32)
    rows.pull(IDS, out, False)
    return out


def test_every_optimizer_and_stored_form(client: Client) -> None:
    grads = [np.random.default_rng(i).standard_normal((len(IDS), 5)).astype(np.float32) for i in range(2)]
    tables = [
        client.open(spec(f"{o}-{w}-{s}", 5, o, hyper=(("l2_decay", 0.01),), initializer="normal", init_args=(0.0, 0.1),
                         weights=w, state=s), rate=0.5)
        for o in OPTIMIZERS for w in WEIGHTS for s in STATES
    ]  # fmt: skip
    client.step = 0
    for g in grads:
        pulled = client.pull([(t, IDS) for t in tables], create=True).result(20)
        parts = []
        for p in pulled:
            by_key = np.empty_like(g)
            by_key[p.inverse] = g
            parts.append(RowGradient(p.keys, p.counts, by_key))
        client.push(list(zip(tables, parts, strict=True)), 0.2)
    for t in tables:
        np.testing.assert_array_equal(client.read(t, IDS), local(t.spec, grads), err_msg=t.spec.name)


def test_initial_values_are_the_same_anywhere(client: Client) -> None:
    for name in INITIALIZERS:
        for weights in WEIGHTS:
            table = client.open(spec(f"{name} {weights}", 5, initializer=name, init_args=ARGS[name], weights=weights))
            expected = local(table.spec, [])
            np.testing.assert_array_equal(client.read(table, IDS), expected)  # unseen
            for _ in range(2):  # made, then found
                (pulled,) = client.pull([(table, IDS)], create=True).result(20)
                np.testing.assert_array_equal(pulled.rows[pulled.inverse], expected)


def test_a_stored_form_that_is_none(client: Client) -> None:
    for wrong in ({"weights": "int8"}, {"state": "float16"}):
        with pytest.raises(TableError, match="no such table"):
            client.open(spec("wrong", **wrong))


def test_an_initializer_of_paddle() -> None:
    """Xavier's fans are those that Paddle takes for the weight of an nn.Embedding: its largest value tells them."""
    for vocabulary, dim in ((300, 20), (1000, 4)):
        name, (low, high) = initial_values.of(init.XavierUniform(), vocabulary, dim)
        weight = paddle.nn.Embedding(vocabulary, dim, weight_attr=paddle.ParamAttr(initializer=init.XavierUniform())).weight
        assert name == "uniform" and low == -high and 0.995 * high < float(weight.abs().max()) <= high
        name, (mean, deviation) = initial_values.of(init.XavierNormal(), vocabulary, dim)
        weight = paddle.nn.Embedding(vocabulary, dim, weight_attr=paddle.ParamAttr(initializer=init.XavierNormal())).weight
        assert name == "normal" and mean == 0 and abs(float(weight.std()) / deviation - 1) < 0.05
    assert initial_values.of(init.XavierUniform(fan_in=2, fan_out=4, gain=2.0), 0, 8) == ("uniform", (-2.0, 2.0))
    assert initial_values.of(init.Normal(0.5, 0.25), 0, 8) == ("normal", (0.5, 0.25))
    with pytest.raises(ConfigError, match="XavierNormal of an open table needs fan_in and fan_out"):
        Embedding(8, initializer=init.XavierNormal(fan_in=3))
    with pytest.raises(ConfigError, match="an initializer KaimingNormal is not in this version"):
        Embedding(8, initializer=init.KaimingNormal())
    for wrong in ({"weights": "int8"}, {"state": "float16"}):
        with pytest.raises(ConfigError, match="must be one of float32"):
            Embedding(8, **wrong)
