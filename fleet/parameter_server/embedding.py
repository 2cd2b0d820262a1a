"""Embedding layers whose rows live on the servers.

``Embedding`` is written by the user; ``convert`` turns an ``nn.Embedding`` into one in place, so that every reference to
the layer stays valid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray

from fleet.errors import ConfigError, TableError
from fleet.parameter_server.client import Pulled, Table
from fleet.parameter_server.session import Ids, Session
from fleet.parameter_server.spec import TableSpec

UPLOAD_ROWS = 1 << 20  # rows of a converted embedding whose keys are made at once


class Embedding(paddle.nn.Layer):  # type: ignore[misc]
    """Look rows of a table up by id: ``int64[...]`` -> ``float32[..., dim]``.

    Args:
        dim: floats of a row.
        vocabulary: ids are below it; 0 takes any uint64 (give ids of 2**63 and more as a NumPy uint64 array).
        initializer: paddle.nn.initializer.Uniform, Normal or Constant; the default is Uniform(-0.01, 0.01).
            A row's first value comes from (seed, table, id) alone.
        name: of the table; the default is the layer's path in the model.

    In ``eval()`` and under ``no_grad`` a look-up makes no row: an unseen id reads as its initial value.

    Raises:
        ConfigError: dim or initializer are not possible.
        TableError: (at a look-up) an id is negative, no integer, or outside the vocabulary.

    Example:
        >>> embedding = fleet.parameter_server.Embedding(16)
        >>> embedding(paddle.to_tensor([[7, 9]])).shape
        [1, 2, 16]
    """

    def __init__(self, dim: int, *, vocabulary: int = 0, initializer: Any = None, name: str | None = None) -> None:
        super().__init__()
        if type(dim) is not int or not 1 <= dim <= 65536:
            raise ConfigError(
                f"dim must be an int from 1 to 65536, got {dim!r}", at="parameter_server.Embedding", fix="give the floats of a row"
            )
        if type(vocabulary) is not int or vocabulary < 0:
            raise ConfigError(
                f"vocabulary must be an int >= 0, got {vocabulary!r}", at="parameter_server.Embedding", fix="0 takes any id"
            )
        self.dim, self.vocabulary, self.table_name = dim, vocabulary, name
        self._initial = _initial(initializer)
        self._upload: NDArray[np.float32] | None = None  # a converted embedding's weight, until the table is open
        self._session: Session | None = None
        self._table: Table | None = None

    def join(self, session: Session, path: str, optimizer: tuple[str, tuple[tuple[str, float], ...]], seed: int) -> None:
        """Open the table; ``path`` is the layer's name in the model."""
        self.table_name = self.table_name or path or "embedding"  # no path: the model itself
        spec = TableSpec(self.table_name, self.dim, optimizer[0], optimizer[1], *self._initial, seed, self.vocabulary)
        self._session, self._table = session, session.open(spec)

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
        return session.client.read(table, np.arange(self.vocabulary, dtype=np.uint64))

    def ids_of(self, x: Any) -> Ids:
        """Return ids as ``uint64[n]``.

        Raises:
            TableError: an id is negative, no integer, or outside the vocabulary.
        """
        given = x if isinstance(x, np.ndarray) else x.numpy() if isinstance(x, paddle.Tensor) else np.asarray(x)
        if given.dtype.kind not in "iu":
            raise self._bad_ids(f"ids must be integers, got {given.dtype}", "cast them to int64")
        flat = given.reshape(-1)
        if flat.size:
            low, high = int(flat.min()), int(flat.max())
            if low < 0:
                at = int(np.flatnonzero(flat < 0)[0])
                raise self._bad_ids(
                    f"id {int(flat[at])} at position {at} is negative", "hash ids to 0..2**63-1, or give a NumPy uint64 array"
                )
            if self.vocabulary and high >= self.vocabulary:
                at = int(np.flatnonzero(flat >= self.vocabulary)[0])
                fix = f"give ids below {self.vocabulary}, or an open table: fleet.parameter_server.Embedding({self.dim})"
                raise self._bad_ids(f"id {int(flat[at])} at position {at} is outside the vocabulary of {self.vocabulary}", fix)
        return np.ascontiguousarray(flat, dtype=np.uint64)

    def forward(self, x: Any) -> Any:
        """Return the rows of ``x``: ids of any shape."""
        session, table = self._joined()
        ids = self.ids_of(x)
        learns = paddle.is_grad_enabled()
        pulled = session.rows(table, ids, create=bool(self.training and learns))
        # A fresh tensor each time: writing into one that autograd has saved would corrupt gradients silently.
        out = paddle.empty([*x.shape, self.dim], dtype="float32")
        if ids.size:
            session.expand(pulled, session.view(out.data_ptr(), ids.size * self.dim).reshape(ids.size, self.dim))
        if learns:
            out.stop_gradient = False
            out.register_hook(lambda gradient: _collect(session, table, pulled, gradient))
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
        return f"{self.vocabulary or 'any uint64'}, {self.dim}, table={self.table_name!r}"

    def _joined(self) -> tuple[Session, Table]:
        if self._session is None or self._table is None:
            raise ConfigError(
                "this embedding has no table yet",
                at="fleet.parameter_server.Embedding",
                fix="call distributed_model(model) and distributed_optimizer(optimizer, strategy=...) before the first look-up",
            )
        return self._session, self._table

    def _bad_ids(self, what: str, fix: str) -> TableError:
        return TableError(what, at=f"table {self.table_name!r}", fix=fix)


def _collect(session: Session, table: Table, pulled: Pulled, gradient: Any) -> None:
    count = len(pulled.inverse)
    if count:
        dense = gradient if gradient.is_contiguous() else gradient.contiguous()
        session.collect(table, pulled, session.view(dense.data_ptr(), count * table.spec.dim).reshape(count, table.spec.dim))


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
        "padding_idx": layer._padding_idx is not None,  # as given: -1 is the last row
        "max_norm": getattr(layer, "_max_norm", None) is not None,
        "scale_grad_by_freq": bool(getattr(layer, "_scale_grad_by_freq", False)),
        "a dtype other than float32": weight.dtype != paddle.float32,
        "a learning rate of its own": getattr(weight, "optimize_attr", {}).get("learning_rate", 1.0) != 1.0,
        "a regularizer": getattr(weight, "regularizer", None) is not None,
    }
    for name, present in refused.items():
        if present:
            fix = "leave it away, or train without a parameter server"
            raise ConfigError(f"an embedding with {name} cannot move to servers in this version of fleet", at=at, fix=fix)
    vocabulary, dim = weight.shape
    values = weight.numpy()
    training = layer.training
    hooks = {name: value for name, value in layer.__dict__.items() if name.startswith("_forward_")}  # the user's go on
    fresh = Embedding(dim, vocabulary=vocabulary, initializer=paddle.nn.initializer.Constant(0.0))
    # The same object becomes another layer: whoever holds it (the model, the script, a list) holds the new one.
    layer.__dict__.clear()
    layer.__class__ = Embedding
    layer.__dict__.update({**fresh.__dict__, **hooks})
    layer._upload, layer.training = values, training


def _initial(initializer: Any) -> tuple[str, tuple[float, float]]:
    kind = type(initializer).__name__
    if initializer is None:
        return "uniform", (-0.01, 0.01)
    if kind == "Uniform":
        return "uniform", (float(initializer._low), float(initializer._high))
    if kind == "Normal":
        return "normal", (float(initializer._mean), float(initializer._std_dev))
    if kind == "Constant":
        return "constant", (float(initializer._value), 0.0)
    raise ConfigError(f"an initializer {kind} is not in this version of fleet for tables", at="parameter_server.Embedding",
                      fix="use paddle.nn.initializer.Uniform, Normal or Constant")  # fmt: skip
