"""From a batch's unique rows to an embedding's result, and from its gradient back to the rows' own: one pass of the core each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import paddle
from numpy.typing import NDArray

from fleet.parameter_server.client import Pulled, Table
from fleet.parameter_server.lookup import Lookup
from fleet.parameter_server.session import Session
from fleet.parameter_server.tables import Values


class Bags(NamedTuple):
    """Ids in bags: what ``pool`` and ``unpool`` of the core take beside rows and inverse."""

    lengths: NDArray[np.int64] | None  # None: every id is a bag of its own
    weights: NDArray[np.float32] | None
    pooling: str

    @property
    def plain(self) -> bool:
        """Return whether every id has its own row in the result, as it is."""
        return self.lengths is None and self.weights is None


class Result:
    """One look-up's result: its tensor, and the way back from its gradient. It never holds the tensor, whose hook holds it.

    Args:
        pulled: the batch's unique rows.
        lookup: the ids, and the shape of the result.
        weights: of the ids that are no padding; None: 1.
        clicks: which of them were clicked, where the table's life counts it.
    """

    def __init__(self, session: Session, table: Table, pulled: Pulled, lookup: Lookup, pooling: str | None,
                 weights: NDArray[np.float32] | None, clicks: NDArray[np.bool_] | None = None) -> None:  # fmt: skip
        self._session, self._table, self._pulled, self._lookup = session, table, pulled, lookup
        self._clicks = clicks
        self._bags = Bags(lookup.lengths, weights, pooling or "sum")

    def tensor(self) -> Any:
        """Return the rows: a fresh tensor each time, as writing into one that autograd has saved corrupts gradients silently."""
        out = paddle.empty([*self._lookup.shape, self._table.spec.dim], dtype="float32")
        if out.size:
            view = self._view(out)
            if self._bags.plain:
                self._session.expand(self._pulled, view)
            else:
                self._session.core.pool(self._pulled.rows, self._pulled.inverse, *self._bags, view)
        return out

    def back(self, gradient: Any) -> None:
        """Take the result's gradient: the rows' part goes to the session."""
        if self._pulled.inverse.size:
            dense = _contiguous(gradient)
            bags = None if self._bags.plain else self._bags
            self._session.collect(self._table, self._pulled, self._view(dense), bags, self._clicks)

    def back_to_weights(self, gradient: Any) -> NDArray[np.float32]:
        """Return the gradient of the weights, ``float32[num_given]``: padding's is 0."""
        lookup, (lengths, weights, pooling), pulled = self._lookup, self._bags, self._pulled
        assert weights is not None
        spread = np.zeros(lookup.num_given, dtype=np.float32)
        if pulled.inverse.size:
            dense = _contiguous(gradient)
            found = self._session.core.weight_gradients(pulled.rows, self._view(dense), pulled.inverse, lengths, weights, pooling)
            spread[slice(None) if lookup.places is None else lookup.places] = found
        return spread

    def _view(self, dense: Any) -> Values:
        """Return a contiguous tensor's memory as ``float32[num_bags, dim]``, which owns nothing."""
        return self._session.view(dense.data_ptr(), dense.size).reshape(-1, self._table.spec.dim)


class Weighted(paddle.autograd.PyLayer):  # type: ignore[misc]
    """A result whose weights want a gradient: ``Weighted.apply(weights, result)``."""

    @staticmethod
    def forward(ctx: Any, weights: Any, result: Result) -> Any:
        """Return the result's tensor."""
        ctx.result, ctx.shape = result, weights.shape
        return result.tensor()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        """Give the rows their gradient, return that of the weights."""
        ctx.result.back(gradient)
        return paddle.to_tensor(ctx.result.back_to_weights(gradient)).reshape(ctx.shape)


def _contiguous(tensor: Any) -> Any:
    return tensor if tensor.is_contiguous() else tensor.contiguous()
