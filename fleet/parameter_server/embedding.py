"""Embedding layers whose rows live on the servers.

``Embedding`` is written by the user; ``convert`` turns an ``nn.Embedding`` into one in place, so that every reference to
the layer stays valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray

from fleet.errors import ConfigError
from fleet.parameter_server import initial_values, row_life, sightings
from fleet.parameter_server.client import Table
from fleet.parameter_server.lookup import POOLINGS, Lookup, Reader
from fleet.parameter_server.pooling import Result, Weighted
from fleet.parameter_server.row_optimizer import WeightAttributes
from fleet.parameter_server.session import Session
from fleet.parameter_server.spec import STATES, WEIGHTS, TableSpec

UPLOAD_ROWS = 1 << 20  # rows of a converted embedding whose keys are made at once


class Embedding(paddle.nn.Layer):  # type: ignore[misc]
    """Look rows of a table up by id: ``int64[...]`` -> ``float32[..., dim]``; with ``pooling`` the rows of each bag become one.

    A bag is the last axis, ``int64[..., n]`` -> ``float32[..., dim]``, or ragged: ``embedding(values, lengths=lengths)`` with
    ``int64[n]`` ids of all bags in a row and ``int64[...]`` lengths -> ``float32[..., dim]``. An empty bag reads as zeros.
    ``weights=`` gives each id a weight, ``float32`` of the ids' shape; they get a gradient if they want one.

    Args:
        dim: floats of a row.
        vocabulary: ids are below it; 0 takes any uint64 (give ids of 2**63 and more as a NumPy uint64 array).
        initializer: paddle.nn.initializer.Uniform, Normal, XavierUniform, XavierNormal or Constant;
            the default is Uniform(-0.01, 0.01).
            A row's first value comes from (seed, table, id) alone.
        name: of the table; the default is the layer's path in the model.
        learning_rate: times the optimizer's, as ``ParamAttr(learning_rate=...)`` of an nn.Embedding.
        weights, state: how the servers store them, in place of the strategy's ``weights`` and ``state``.
        pooling: ``"sum"`` of weight times row; ``"mean"``: that over the sum of weights; ``"sqrtn"``: over the root of the
            sum of squared weights. Weights are 1 if none are given; a bag whose divisor is 0 reads as zeros.
        padding_id: the id that stands for none, -1 for example: it reads as zeros, gets no gradient and no row, and counts
            in no mean.
        admission: when an id earns its row: ``{"by": "count", "count": 5}``, by probability or by score; None: at once.
        eviction: when a row is lost: ``{"by": "age", "steps": 100000}``, by score, by capacity, or a list of several; None: never.
            ``docs/row_life.md`` describes both. Rows that live by shows and clicks need ``embedding(ids, clicks=labels)``.
        entry: Paddle's CountFilterEntry, ProbabilityEntry or ShowClickEntry in place of ``admission``.

    In ``eval()`` and under ``no_grad`` a look-up makes no row: an unseen id reads as its initial value.

    Raises:
        ConfigError: an argument is not possible.
        TableError: (at a look-up) an id is negative, no integer, or outside the vocabulary; lengths are negative or do not add
            up to the ids; weights are not finite or not one an id. Nothing was changed.

    Example:
        >>> embedding = fleet.parameter_server.Embedding(16)
        >>> embedding(paddle.to_tensor([[7, 9]])).shape
        [1, 2, 16]
        >>> bags = fleet.parameter_server.Embedding(16, pooling="mean")
        >>> bags(paddle.to_tensor([7, 9, 9]), lengths=paddle.to_tensor([1, 0, 2])).shape
        [3, 16]
    """

    def __init__(self, dim: int, *, vocabulary: int = 0, initializer: Any = None, name: str | None = None,
                 pooling: str | None = None, padding_id: int | None = None, learning_rate: float = 1.0, admission: Any = None,
                 eviction: Any = None, entry: Any = None, weights: str | None = None,
                 state: str | None = None) -> None:  # fmt: skip
        super().__init__()
        if type(dim) is not int or not 1 <= dim <= 65536:
            raise ConfigError(
                f"dim must be an int from 1 to 65536, got {dim!r}", at="parameter_server.Embedding", fix="give the floats of a row"
            )
        if type(vocabulary) is not int or vocabulary < 0:
            raise ConfigError(
                f"vocabulary must be an int >= 0, got {vocabulary!r}", at="parameter_server.Embedding", fix="0 takes any id"
            )
        if pooling is not None and pooling not in POOLINGS:
            raise ConfigError(
                f"pooling must be one of {', '.join(POOLINGS)} or None, got {pooling!r}", at="parameter_server.Embedding",
                fix="None gives one row an id",
            )  # fmt: skip
        if padding_id is not None and (type(padding_id) is not int or not -(2**63) <= padding_id < 2**64):
            raise ConfigError(
                f"padding_id must be an int of 64 bits, got {padding_id!r}", at="parameter_server.Embedding", fix="None: no padding"
            )
        if isinstance(learning_rate, bool) or not isinstance(learning_rate, (int, float)) or not 0 <= learning_rate < float("inf"):
            raise ConfigError(
                f"learning_rate must be a number >= 0, got {learning_rate!r}", at="parameter_server.Embedding",
                fix="give what the optimizer's rate is multiplied with",
            )  # fmt: skip
        for what, value, known in (("weights", weights, WEIGHTS), ("state", state, STATES)):
            if value is not None and value not in known:
                raise ConfigError(
                    f"{what} must be one of {', '.join(known)} or None, got {value!r}", at="parameter_server.Embedding",
                    fix="None takes the strategy's",
                )  # fmt: skip
        self.dim, self.vocabulary, self.table_name = dim, vocabulary, name
        self.pooling, self.padding_id = pooling, padding_id
        self.life = row_life.of(admission, eviction, entry)
        self._initial = initial_values.of(initializer, vocabulary, dim)
        self._attributes = WeightAttributes("", float(learning_rate))
        self._stored = weights, state
        self._upload: NDArray[np.float32] | None = None  # a converted embedding's weight, until the table is open
        self._session: Session | None = None
        self._table: Table | None = None
        self._reader: Reader  # of its ids: made with the table

    def join(self, session: Session, path: str, optimizer: tuple[str, tuple[tuple[str, float], ...]], block: Mapping[str, Any],
             seed: int) -> None:  # fmt: skip
        """Open the table; ``path`` is the layer's name in the model, ``block`` the strategy's ``parameter_server``."""
        self.table_name = self.table_name or path or "embedding"  # no path: the model itself
        stored = self._stored[0] or block["weights"], self._stored[1] or block["state"]
        spec = TableSpec(self.table_name, self.dim, *optimizer, *self._initial, seed, self.vocabulary, self.life, *stored)
        if session.evicts_when_full and not self.vocabulary and not self.life.evicts:
            raise ConfigError(
                f"when_full is evict, and table {self.table_name!r} has no rule by which rows go",
                at="strategy.parameter_server.when_full",
                fix='give the embedding an eviction, e.g. {"by": "capacity", "rows": ...}, or take when_full="refuse"',
            )
        self._session, self._table = session, session.open(spec, self._attributes.learning_rate)
        self._reader = Reader(f"table {self.table_name!r}", self.vocabulary, self.dim, self.pooling, self.padding_id)

    def upload(self) -> None:
        """Send a converted embedding's present weight to the servers; trainer 0 does it for all."""
        if self._upload is not None:
            self.assign(self._upload)

    def assign(self, rows: NDArray[np.float32]) -> None:
        """Set all rows, ``float32[vocabulary, dim]``; their row state begins anew."""
        session, table = self._joined()
        for start in range(0, len(rows), UPLOAD_ROWS):
            part = rows[start : start + UPLOAD_ROWS]
            session.client.assign(table, np.arange(start, start + len(part), dtype=np.uint64), part)

    def forget_weight(self) -> None:
        """Free the uploaded weight."""
        self._upload = None

    def download(self) -> NDArray[np.float32]:
        """Return all rows, ``float32[vocabulary, dim]``."""
        session, table = self._joined()
        return session.read(table, np.arange(self.vocabulary, dtype=np.uint64))

    def look(self, ids: Any, lengths: Any = None) -> Lookup:
        """Return what a look-up of ids, or of ragged ids and their lengths, asks for.

        Raises:
            ConfigError: lengths without pooling.
            TableError: ids or lengths that are none.
        """
        self._joined()
        if lengths is not None and self.pooling is None:
            raise self._needs_pooling("lengths")
        return self._reader.read(ids, lengths)

    def forward(self, x: Any, lengths: Any = None, weights: Any = None, clicks: Any = None) -> Any:
        """Return the rows of the ids ``x``, or of its bags."""
        session, table = self._joined()
        learns = paddle.is_grad_enabled()
        sightings.refuse_clicks(clicks, self.life.num_sightings, self.training and learns, f"table {self.table_name!r}")
        if weights is not None and self.pooling is None:
            raise self._needs_pooling("weights")
        lookup = self.look(x, lengths)
        clicked = None if clicks is None else sightings.clicks_of(clicks, lookup, x, f"table {self.table_name!r}")
        each = None if weights is None else self._reader.weights(weights, lookup)
        pulled = session.rows(table, lookup.ids, create=bool(self.training and learns))
        result = Result(session, table, pulled, lookup, self.pooling, each, clicked)
        if learns and each is not None and not getattr(weights, "stop_gradient", True):
            return Weighted.apply(weights, result)
        out = result.tensor()
        if learns:
            out.stop_gradient = False
            out.register_hook(result.back)
        return out

    @property
    def weight(self) -> Any:
        """Refuse: the rows are on the servers."""
        raise ConfigError(
            f"the weight of table {self.table_name!r} is on the servers",
            at="Embedding.weight",
            fix="look rows up by calling the layer; fleet.save writes them all; to use the weight elsewhere train without servers",
        )

    def extra_repr(self) -> str:
        """Show what print(model) shows."""
        pooled = f", pooling={self.pooling!r}" if self.pooling else ""
        padded = f", padding_id={self.padding_id}" if self.padding_id is not None else ""
        return f"{self.vocabulary or 'any uint64'}, {self.dim}, table={self.table_name!r}{pooled}{padded}"

    def _joined(self) -> tuple[Session, Table]:
        if self._session is None or self._table is None:
            raise ConfigError(
                "this embedding has no table yet",
                at="fleet.parameter_server.Embedding",
                fix="call distributed_model(model) and distributed_optimizer(optimizer, strategy=...) before the first look-up",
            )
        return self._session, self._table

    def _needs_pooling(self, what: str) -> ConfigError:
        fix = f'make it with pooling="sum", "mean" or "sqrtn", or leave {what} out'
        return ConfigError(f"{what} are given to an embedding without pooling", at=f"table {self.table_name!r}", fix=fix)


def find(model: Any) -> dict[str, Any]:
    """Return the layers of a model that are or become tables, by path: its tables and its trainable nn.Embeddings.

    Raises:
        ConfigError: an embedding's weight is also used by another layer.
    """
    layers = [("", model), *model.named_sublayers()]
    found = {path: layer for path, layer in layers if isinstance(layer, Embedding) or _trainable(layer)}
    owners: dict[int, str] = {}
    for path, layer in layers:
        for parameter in layer._parameters.values():
            first = owners.setdefault(id(parameter), path)
            if first != path and (first in found or path in found):
                raise ConfigError(
                    f"the weight of the embedding is shared by {first!r} and {path!r}",
                    at=path,
                    fix="rows on servers are only looked up: give the other layer its own weight, or train without servers",
                )
    return found


def weights(layer: Any) -> list[Any]:
    """Return the local parameters of a layer that is to become a table."""
    return [p for p in layer._parameters.values() if p is not None]


def attributes(layer: Any, path: str) -> WeightAttributes:
    """Return what a layer that is or becomes a table says to the optimizer; without a weight it has the table's name."""
    if not isinstance(layer, Embedding):
        return WeightAttributes.of(layer.weight)
    found: WeightAttributes = layer._attributes
    return found._replace(name=found.name or layer.table_name or path)


def _trainable(layer: Any) -> bool:
    return type(layer) is paddle.nn.Embedding and not layer.weight.stop_gradient


def convert(layer: Any, path: str) -> None:
    """Turn an nn.Embedding into an Embedding, in place; its present weight is uploaded when the table is open.

    Raises:
        ConfigError: the layer does something that a table does not do yet.
    """
    weight = layer.weight
    at = f"{path} (nn.Embedding)"
    refused = {
        "max_norm": getattr(layer, "_max_norm", None) is not None,
        "scale_grad_by_freq": bool(getattr(layer, "_scale_grad_by_freq", False)),
        "a dtype other than float32": weight.dtype != paddle.float32,
    }
    for name, present in refused.items():
        if present:
            fix = "leave it away, or train without a parameter server"
            raise ConfigError(f"an embedding with {name} cannot move to servers in this version of fleet", at=at, fix=fix)
    vocabulary, dim = weight.shape
    values = weight.numpy()
    training = layer.training
    hooks = {name: value for name, value in layer.__dict__.items() if name.startswith("_forward_")}  # the user's go on
    padding = None if layer._padding_idx is None else layer._padding_idx % vocabulary  # as given: -1 is the last row
    fresh = Embedding(dim, vocabulary=vocabulary, initializer=paddle.nn.initializer.Constant(0.0), padding_id=padding)
    # The same object becomes another layer: whoever holds it (the model, the script, a list) holds the new one.
    layer.__dict__.clear()
    layer.__class__ = Embedding
    layer.__dict__.update({**fresh.__dict__, **hooks})
    layer._upload, layer.training, layer._attributes = values, training, WeightAttributes.of(weight)
