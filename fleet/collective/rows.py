"""The gradient of an ``nn.Embedding(sparse=True)``: ids and their rows (SelectedRows), merged over the trainers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fleet.collective.wire import JobWire
from fleet.group import Group

Give = Callable[[Any, Any, Any], None]  # parameter, ids int64[n], rows [n, dim] -> its gradient is these


class RowsFlat:
    """A bucket of one parameter whose gradient is a list of rows. What travels: 8 bytes an id, and its row."""

    def __init__(self, dim: int, dtype: str, wire: JobWire, give: Give) -> None:
        self._dim, self._dtype, self._wire, self._give = dim, np.dtype(dtype), wire, give
        self._ids, self._rows = np.empty(0, np.int64), np.empty((0, dim), self._dtype)

    def put(self, start: int, stop: int, gradient: Any, weight: float) -> None:
        """Take ``weight * gradient``; weight 0 takes nothing."""
        self._ids, self._rows = np.empty(0, np.int64), np.empty((0, self._dim), self._dtype)
        if weight != 0.0:
            self.add(start, stop, gradient)
            self._rows = self._rows * self._dtype.type(weight)

    def add(self, start: int, stop: int, gradient: Any) -> None:
        """Add a gradient as it is."""
        ids, rows = read(gradient)
        self._ids, self._rows = np.concatenate([self._ids, ids]), np.concatenate([self._rows, rows])

    def add_up(self, group: Group | None, where: str, present: int) -> None:
        """Gather everybody's ids and rows, and add up the rows of equal ids in rank order: the same bits on every trainer."""
        self._wire.where = f"{where}, rows"
        gathered = self._wire.gather(self._ids.tobytes() + np.ascontiguousarray(self._rows).tobytes())
        each = 8 + self._dim * self._dtype.itemsize
        counts = [len(p) // each for p in gathered]
        ids = np.concatenate([np.frombuffer(p, np.int64, n) for p, n in zip(gathered, counts, strict=True)])
        rows = [np.frombuffer(p, self._dtype, n * self._dim, 8 * n) for p, n in zip(gathered, counts, strict=True)]
        self._ids, self._rows = merged(ids, np.concatenate(rows).reshape(-1, self._dim))

    def take(self, start: int, stop: int, parameter: Any, kept: Any | None) -> None:
        """Make ``parameter.grad`` these rows, plus ``kept`` if given."""
        if kept is None:
            self._give(parameter, self._ids, self._rows)
        else:
            ids, rows = read(kept)
            self._give(parameter, *merged(np.concatenate([ids, self._ids]), np.concatenate([rows, self._rows])))


class Rows(NamedTuple):
    """A copy of a gradient of rows: ids int64[n], rows [n, dim]. Paddle 3.3.1 cannot clone a SelectedRows."""

    ids: Any
    rows: Any


def read(gradient: Any) -> Rows:
    """Return a copy of a SelectedRows gradient, or the copy itself."""
    if isinstance(gradient, Rows):
        return gradient
    held = gradient.get_selected_rows()
    return Rows(np.array(held.rows(), np.int64), np.array(held.get_tensor()))


def merged(ids: Any, rows: Any) -> tuple[Any, Any]:
    """Return each id once, in order, with the sum of its rows, added in the order in which they come."""
    unique, place = np.unique(ids, return_inverse=True)
    total = np.zeros((len(unique), rows.shape[1]), rows.dtype)
    np.add.at(total, place.reshape(-1), rows)
    return unique, total


def weighed(parts: Sequence[tuple[Any, float]]) -> tuple[Any, Any]:
    """Return ids and rows of a sum of SelectedRows gradients, each times its number."""
    lists = [(*read(gradient), by) for gradient, by in parts]
    rows = np.concatenate([rows * rows.dtype.type(by) for _, rows, by in lists])
    return merged(np.concatenate([ids for ids, _, _ in lists]), rows)


def giver(outermost: Any) -> Give:
    """Return what gives a parameter a gradient of rows: Paddle makes one only in a look-up's own backward."""

    def give(parameter: Any, ids: Any, rows: Any) -> None:
        import paddle

        parameter.clear_gradient(False)
        with outermost.unseen(), paddle.set_grad_enabled(True):
            looked_up = paddle.nn.functional.embedding(paddle.to_tensor(ids), parameter, sparse=True)
            looked_up.backward(paddle.to_tensor(rows))

    return give
