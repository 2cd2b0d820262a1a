"""Dense parameters on the servers: pushed as gradients, moved there by the script's own optimizer, pulled back.

The parameters of one kind (same rate, same decay) are a table: each parameter begins a new row of 1024 floats and fills as many
as it needs, zeros behind its end; a row's key is its number. So the wire, counting once, consistency, snapshots and
statistics are those of any table. A parameter without a gradient sends no row and does not move, as in Paddle; only the
correction of Adam's and AdamW's bias counts the steps of the table, where Paddle counts the parameter's own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fleet.errors import ConfigError
from fleet.parameter_server import dense_optimizer
from fleet.parameter_server.client import Pulled, RowGradient, Table
from fleet.parameter_server.dense_optimizer import Kind
from fleet.parameter_server.session import Session
from fleet.parameter_server.spec import TableSpec

BLOCK = 1024  # floats of a row: 4 KB, a message's part that any disk and any socket takes whole
PREFIX = "@dense"  # no layer's path, so no embedding's table


class Part(NamedTuple):
    """A parameter and where it lies."""

    name: str
    parameter: Any
    floats: slice  # in the blocks of its kind, seen as one vector
    blocks: slice


class Blocks:
    """The parameters of one kind and the table that holds them."""

    def __init__(self, session: Session, name: str, kind: Kind, named: list[tuple[str, Any]]) -> None:
        self.parts: list[Part] = []
        start = 0
        for path, parameter in named:
            size = int(parameter.size)
            end = start + -(-size // BLOCK)
            self.parts.append(Part(path, parameter, slice(start * BLOCK, start * BLOCK + size), slice(start, end)))
            start = end
        spec = TableSpec(name=name, dim=BLOCK, optimizer=kind.optimizer, hyper=kind.hyper, initializer="constant",
                         init_args=(0.0, 0.0), seed=0, vocabulary=start)  # fmt: skip
        self.table: Table = session.open(spec, kind.rate, merged=False)
        self.table.dtype = "float32"  # the strategy's wire is about rows: few floats, and every sample uses each of them
        self.keys = np.arange(start, dtype=np.uint64)
        self.values = np.zeros((start, BLOCK), dtype=np.float32)  # as last written to the parameters
        self._gradient = np.zeros((start, BLOCK), dtype=np.float32)  # zero behind each parameter's end, for ever
        ordered, _, self._counts = session.unique(self.table, self.keys)
        self._order = ordered.astype(np.int64)  # blocks as a message has them: by server

    def gradient(self, session: Session) -> RowGradient | None:
        """Return the rows of the parameters that have a gradient, or None if none has."""
        used = np.zeros(len(self.keys), dtype=bool)
        flat = self._gradient.reshape(-1)
        for part in self.parts:
            if part.parameter.grad is not None:
                used[part.blocks] = True
                _copy_gradient(session, part, flat[part.floats])
        if used.all():
            return RowGradient(self._order.astype(np.uint64), self._counts, self._gradient[self._order])
        if not used.any():
            return None
        sent = used[self._order]
        of_server = np.split(sent, np.cumsum(self._counts)[:-1])
        rows = self._order[sent]
        return RowGradient(rows.astype(np.uint64), np.array([s.sum() for s in of_server], np.int64), self._gradient[rows])


class Dense:
    """The dense parameters of a trainer's model, kept on the servers.

    Args:
        named: names and parameters in the optimizer's order, the same on every trainer, equal in value.
        optimizer: the script's own; it says how the servers move the rows, and never steps itself.
        pull_steps: steps between two pulls of the parameters.

    Raises:
        ConfigError: the servers cannot do what the optimizer does.
    """

    def __init__(self, session: Session, named: list[tuple[str, Any]], optimizer: Any, pull_steps: int, world_size: int) -> None:
        self._session, self._pull_steps = session, pull_steps
        trained = [(name, p) for name, p in named if not p.stop_gradient]
        kinds = dense_optimizer.kinds(optimizer, trained)
        self._all = [Blocks(session, f"{PREFIX}.{i}" if i else PREFIX, kind, of) for i, (kind, of) in enumerate(kinds)]
        self._steps = 0
        self._one = world_size == 1
        self._counts = self._one  # whether a backward since clear_grad had a part in a global batch
        self.bytes = sum(b.values.nbytes for b in self._all)
        if world_size > 1:
            for _, parameter in trained:
                parameter.register_hook(self._weigh)
        self._note_values()

    def upload(self) -> None:
        """Set the servers' rows to the parameters' present values; their row state begins anew. One trainer does it for all."""
        self._note_values()
        for blocks in self._all:
            self._session.client.assign(blocks.table, blocks.keys, blocks.values)

    def collect(self) -> None:
        """Hand the gradients in hand to the session, to be pushed with the rows'.

        Raises:
            ConfigError: the script has changed a parameter, which the servers' value would undo.
        """
        for blocks in self._all:
            self._refuse_changes(blocks)
            found = blocks.gradient(self._session) if self._counts else None
            if found is not None:
                self._session.hand_in(blocks.table, found)

    def follow(self) -> None:
        """Take over the parameters behind a push, once every pull_steps steps."""
        self._steps += 1
        if self._steps % self._pull_steps == 0:
            self._pull(takes_a_step=True)

    def pull(self) -> None:
        """Take over what the servers hold now, with this trainer's steps so far; waits for no other trainer."""
        self._pull(takes_a_step=False)

    def _pull(self, takes_a_step: bool) -> None:
        """Ask and wait.

        Waited for, also with prefetch=1: every sample uses every dense parameter, so one step of staleness here is one of the
        whole model. Adam then overshoots: CTR-DNN's AUC behind 106 steps was 0.66 instead of 0.735.
        """
        if self._all:
            self._write(self._session.client.pull([(b.table, b.keys) for b in self._all], create=takes_a_step).result())

    def clear(self) -> None:
        """Forget which backwards there were, as clear_grad forgets their gradients."""
        self._counts = self._one

    def _weigh(self, gradient: Any) -> Any:
        weight = self._session.weight
        self._counts = self._counts or weight > 0  # an empty part: computed on a borrowed sample, counts nothing
        return gradient if weight == 1 else gradient * weight

    def _write(self, pulled: list[Pulled]) -> None:
        for blocks, found in zip(self._all, pulled, strict=True):
            self._session.expand(found, blocks.values)
            flat = blocks.values.reshape(-1)
            for part in blocks.parts:
                _memory(self._session, part.parameter)[:] = flat[part.floats]

    def _note_values(self) -> None:
        for blocks in self._all:
            for part in blocks.parts:
                blocks.values.reshape(-1)[part.floats] = _memory(self._session, part.parameter)

    def _refuse_changes(self, blocks: Blocks) -> None:
        flat = blocks.values.reshape(-1)
        for part in blocks.parts:  # compared as bytes: NaN equals itself, and memcmp is many times as fast as ==
            if _memory(self._session, part.parameter).data.cast("B") != flat[part.floats].data.cast("B"):
                raise ConfigError(
                    f"the script has changed {part.name!r}, which lives on the servers",
                    at='parameter_server.dense="server"',
                    fix='load weights by fleet.load or a Checkpointer, or take dense="allreduce" (with sync or async)',
                )


def _memory(session: Session, tensor: Any) -> Any:
    return session.view(tensor.data_ptr(), int(tensor.size))


def _copy_gradient(session: Session, part: Part, out: Any) -> None:
    gradient = part.parameter.grad
    if not gradient.is_dense():
        raise ConfigError(f"the gradient of {part.name!r} is sparse", at='parameter_server.dense="server"',
                          fix="make the layer a fleet.parameter_server.Embedding, or leave sparse=True away")  # fmt: skip
    out[:] = _memory(session, gradient if gradient.is_contiguous() else gradient.contiguous())


