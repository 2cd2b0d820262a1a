"""A model's forward as programs without look-ups: ``dense`` takes the rows as inputs, in the place of each Embedding.

The model is traced twice. The first time an Embedding only notes which ids it was asked for; ids that are not one of the
inputs as it is become the outputs of a program of their own, ``ids``. The second time each look-up is a further input.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle.static import InputSpec

from fleet.errors import ConfigError
from fleet.parameter_server import structure
from fleet.parameter_server.embedding import Embedding

AT = "fleet.export()"


class LookUp(NamedTuple):
    """One call of an Embedding in the model's forward, and the numbers of what it is given: inputs, then outputs of ``ids``."""

    table: str
    ids: int
    lengths: int | None
    weights: int | None
    pooling: str | None
    padding_id: int | None


class Inputs(NamedTuple):
    """What a forward takes: a nest of lists and dicts, and its leaves in order."""

    structure: Any
    specs: list[InputSpec]


class Programs(NamedTuple):
    """What was saved: programs take only what they use, as Paddle asks."""

    look_ups: list[LookUp]
    ids: list[int]  # the inputs that the program ``ids`` takes; none: there is no such program
    dense: list[int]  # what ``dense`` takes: inputs, then look-ups, which count on from the inputs


class _StandIn(paddle.nn.Layer):  # type: ignore[misc]
    """What an Embedding is while its model is traced; ``_trace`` answers."""

    @paddle.jit.not_to_static  # type: ignore[untyped-decorator]
    def forward(self, x: Any, lengths: Any = None, weights: Any = None) -> Any:
        return self._trace(self, x, lengths, weights)


class _Trace(paddle.nn.Layer):  # type: ignore[misc]
    """A model whose arguments come as a flat list; those that are not in ``used`` are zeros."""

    def __init__(self, model: Any, nest: Any, specs: list[InputSpec]) -> None:
        super().__init__()
        self.model, self._nest, self._specs = model, nest, specs
        self.used = list(range(len(specs)))
        self._leaves: list[Any] = []
        self.eval()

    def forward(self, inputs: Any) -> Any:
        arguments = self._begin(inputs)
        return self._end(self.model(*arguments))

    @property
    def specs(self) -> list[InputSpec]:
        """Return the specs of what the program takes."""
        return [self._specs[i] for i in self.used]

    @paddle.jit.not_to_static  # type: ignore[untyped-decorator]
    def _begin(self, inputs: Any) -> Any:
        given = dict(zip(self.used, inputs, strict=True))
        zeros = {i: paddle.zeros([max(1, n) for n in s.shape], s.dtype) for i, s in enumerate(self._specs) if i not in given}
        self._leaves = [given.get(i, zeros.get(i)) for i in range(len(self._specs))]
        return structure.pack(self._nest, self._leaves)

    @paddle.jit.not_to_static  # type: ignore[untyped-decorator]
    def _end(self, outputs: Any) -> Any:
        leaves: list[Any] = []
        structure.of(outputs, leaves)
        values = [v for v in leaves if hasattr(v, "stop_gradient")]  # an output may be None
        self.needed = [i for i, leaf in enumerate(self._leaves) if any(_reaches(v, leaf) for v in values)]
        return outputs


class _Ids(_Trace):
    """Inputs to what look-ups are given, where that is not one of the inputs as it is."""

    @paddle.jit.not_to_static  # type: ignore[untyped-decorator]
    def _begin(self, inputs: Any) -> Any:
        arguments = super()._begin(inputs)
        self.look_ups: list[LookUp] = []
        self.shapes: list[list[int]] = []  # of the results; -1: any
        self.num_computed = 0
        self._rows: list[Any] = []  # these two live as long as the program: shapes are noted, as reading one later ends the process
        self._computed: list[Any] = []
        return arguments

    @paddle.jit.not_to_static  # type: ignore[untyped-decorator]
    def _end(self, outputs: Any) -> Any:
        self.circular = any(_reaches(x, row) for x in self._computed for row in self._rows)  # raised later: not through Paddle
        self.num_computed = len(self._computed)
        return super()._end(self._computed or self._leaves[:1])  # a program has an output

    def look_up(self, layer: Any, x: Any, lengths: Any, weights: Any) -> Any:
        """Note what is asked for; answer something of the result's shape."""
        bags, each = (None if value is None else self._source(value) for value in (lengths, weights))
        self.look_ups.append(LookUp(layer.table_name, self._source(x), bags, each, layer.pooling, layer.padding_id))
        like = paddle.cast(x if lengths is None else lengths, "float32")
        if lengths is None and layer.pooling is not None:
            like = like.sum(axis=-1)
        self._rows.append(paddle.tile(like.unsqueeze(-1), [1] * len(like.shape) + [layer.dim]))
        self.shapes.append([int(n) for n in self._rows[-1].shape])
        return self._rows[-1]

    def _source(self, value: Any) -> int:
        for i, leaf in enumerate([*self._leaves, *self._computed]):
            if leaf is value:
                return i
        self._computed.append(value)
        return len(self._leaves) + len(self._computed) - 1


class _Dense(_Trace):
    """Inputs and rows to the model's outputs."""

    @paddle.jit.not_to_static  # type: ignore[untyped-decorator]
    def _begin(self, inputs: Any) -> Any:
        arguments, rows = super()._begin(inputs)
        self._rows = list(rows)
        return arguments

    def look_up(self, layer: Any, *_: Any) -> Any:
        """Answer the next input of rows: the calls come in the order of the first trace."""
        return self._rows.pop(0)


def inputs_of(given: Any) -> Inputs:
    """Return what ``input_spec`` says: InputSpecs, or examples (tensors or arrays) whose first dimension becomes free.

    Raises:
        ConfigError: it is missing or holds something else.
    """
    fix = "give one batch as the model's forward takes it, input_spec=[ids, dense], or paddle.static.InputSpec"
    if not isinstance(given, (list, tuple)) or not given:
        raise ConfigError(f"input_spec must be a list of the forward's arguments, got {given!r}", at=AT, fix=fix)
    leaves: list[Any] = []
    nest, specs = structure.of(list(given), leaves), []
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, InputSpec):
            spec = InputSpec(leaf.shape, leaf.dtype, leaf.name or f"input_{i}")
        elif isinstance(leaf, (np.ndarray, paddle.Tensor)):
            dtype = dtype_of(leaf)
            spec = InputSpec([None, *leaf.shape[1:]] if leaf.ndim else [], "int64" if dtype == "uint64" else dtype, f"input_{i}")
        else:
            raise ConfigError(f"input_spec holds a {type(leaf).__name__}", at=AT, fix=fix)
        specs.append(spec)
    return Inputs(nest, specs)


def dtype_of(value: Any) -> str:
    """Return ``int64`` for what Paddle 2 calls VarType.INT64 and Paddle 3 paddle.int64."""
    return {"fp32": "float32", "fp64": "float64", "fp16": "float16", "bf16": "bfloat16"}.get(
        name := str(value.dtype).rpartition(".")[2].lower(), name
    )


def save(model: Any, path: str, inputs: Inputs) -> Programs:
    """Write the programs ``path/dense`` and, where the model computes ids, ``path/ids``.

    Raises:
        ConfigError: Paddle cannot trace the model's forward.
    """
    with _without_look_ups(model):
        ids = _Ids(model, inputs.structure, inputs.specs)
        _trace(ids)
        if ids.circular:
            what = "the ids of a look-up are computed from the rows of another one"
            raise ConfigError(what, at=AT, fix="compute them outside the model and give them as an input")
        if ids.num_computed:
            _save(ids, f"{path}/ids")
        rows = [InputSpec([None if n < 0 else n for n in shape], "float32", f"rows_{i}") for i, shape in enumerate(ids.shapes)]
        first = len(inputs.specs)
        nest = [inputs.structure, list(range(first, first + len(rows)))]
        dense = _Dense(model, nest, [*inputs.specs, *rows])
        _trace(dense)
        _save(dense, f"{path}/dense")
    return Programs(ids.look_ups, ids.used if ids.num_computed else [], dense.used)


def _trace(layer: _Trace) -> None:
    """Find out which inputs the outputs need."""
    with _tracing(layer):
        paddle.jit.to_static(layer, input_spec=[layer.specs], full_graph=True).forward.concrete_program  # noqa: B018 - traces
    layer.used = layer.needed
    if not layer.used:
        fix = "let forward use its inputs"
        raise ConfigError("the model's outputs depend on no input", at=AT, fix=fix)


def _save(layer: _Trace, path: str) -> None:
    with _tracing(layer):
        paddle.jit.save(layer, path, input_spec=[layer.specs])


@contextlib.contextmanager
def _without_look_ups(model: Any) -> Iterator[None]:
    """Put the model as it is to be served, and back: in eval mode, an Embedding is a stand-in."""
    layers = [model, *model.sublayers()]
    training = [layer.training for layer in layers]
    tables = [layer for layer in layers if type(layer) is Embedding]
    model.eval()
    for layer in tables:
        layer.__class__ = _StandIn
    try:
        yield
    finally:
        for layer in tables:
            layer.__class__ = Embedding
            layer.__dict__.pop("_trace", None)
        for layer, was in zip(layers, training, strict=True):
            layer.training = was


@contextlib.contextmanager
def _tracing(trace: _Trace) -> Iterator[None]:
    """Let the stand-ins ask ``trace``; undo what Paddle's translation leaves on the layers."""
    layers = [trace, *trace.sublayers()]
    forwards = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        if type(layer) is _StandIn:
            layer.__dict__["_trace"] = trace.look_up
    try:
        yield
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ConfigError(
            f"Paddle cannot trace the model's forward: {type(error).__name__}: {lines[-1].strip() if lines else ''}",
            at=AT,
            fix="let forward use Paddle's operations on its inputs, without .numpy(), float() or a branch on values; "
            "the error above this one shows the line",
        ) from error
    finally:
        for layer, forward in zip(layers, forwards, strict=True):
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.__dict__["forward"] = forward


def _reaches(value: Any, target: Any) -> bool:
    """Return whether ``value`` of the program under way was computed from ``target``."""
    if not hasattr(value, "get_defining_op"):
        return _reaches_by_name(value, target)
    seen, left = set(), [value]
    while left:
        here = left.pop()
        if here.is_same(target):
            return True
        op = here.get_defining_op()
        if op is not None and op.id() not in seen:
            seen.add(op.id())
            left += paddle.base.libpaddle.pir.get_used_external_value(op)  # what its blocks use, too
    return False


def _reaches_by_name(value: Any, target: Any) -> bool:
    """The same in Paddle 2's programs, whose values have names."""
    names = {value.name}
    for op in reversed(value.block.ops):
        if names & set(op.output_arg_names):
            names |= set(op.input_arg_names)
    return target.name in names
