"""What the numbers behind a key are, of a row that Paddle's server saved, and what they are here.

A row is ``slot unseen_days delta_score show click w s... [x... y...]``: one weight and its state, then the other ``dim - 1``
weights and theirs, each by a rule of its own. A row whose score never reached ``embedx_threshold`` ends before x; these weights
read as 0.
Accessors: SparseAccessor and CtrCommonAccessor write alike.

Source: the layouts of ``ctr_accessor.h``, ``sparse_accessor.h`` and ``sparse_sgd_rule.h`` of Paddle 2.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fleet.errors import ConfigError
from fleet.parameter_server.snapshot.paddle_text import Lines
from fleet.parameter_server.spec import TableSpec

Floats = NDArray[np.float32]
SHOW, CLICK, WEIGHT = 3, 4, 5  # places of the numbers behind a key; before them the slot, days unseen, and a score

_ADAM = ("SparseAdamSGDRule", "SparseSharedAdamSGDRule")
# Paddle's rule -> floats of state of n weights
RULES: dict[str, Callable[[int], int]] = {
    "SparseNaiveSGDRule": lambda n: 0,
    "SparseAdaGradSGDRule": lambda n: 1,  # the mean of squared gradients, summed
    "StdAdaGradSGDRule": lambda n: n,
    "SparseAdamSGDRule": lambda n: 2 * n + 2,  # both moments, both powers of the betas
    "SparseSharedAdamSGDRule": lambda n: 4,
}
# -> row optimizers here that can go on from it; the first is taken where none is asked for
HERE = {
    "SparseNaiveSGDRule": ("sgd",),
    "SparseAdaGradSGDRule": ("rowwise_adagrad", "adagrad"),
    "StdAdaGradSGDRule": ("adagrad", "rowwise_adagrad"),
    "SparseAdamSGDRule": ("adam", "adamw"),
    "SparseSharedAdamSGDRule": ("adam", "adamw"),
}


class Rows(NamedTuple):
    """Rows of one table, of some lines."""

    keys: NDArray[np.uint64]
    weights: Floats  # [n, dim]
    state: Floats  # [n, s of 1 weight + s of dim - 1]: as the rule keeps it
    show: Floats
    click: Floats


def widths(rule: str, dim: int) -> tuple[int, int]:
    """Return how many numbers a short and a whole line have behind the key."""
    short = WEIGHT + 1 + RULES[rule](1)
    return short, short + (dim - 1 + RULES[rule](dim - 1) if dim > 1 else 0)


def rule_of(lines: Lines, dim: int) -> str:
    """Return the one rule by which rows of ``dim`` weights have the lengths of these lines.

    Raises:
        ConfigError: none has, or several have.
        SnapshotError: as for the first line, if lines differ otherwise.
    """
    found = set(np.unique(np.diff(lines.starts)).tolist())
    fitting = [rule for rule in RULES if found <= set(widths(rule, dim))]
    if len(fitting) == 1:
        return fitting[0]
    expected = "; ".join(f"{rule}: {' or '.join(map(str, sorted(set(widths(rule, dim)))))}" for rule in fitting or RULES)
    what = f"lines of {sorted(found)} numbers behind the key and {dim} weights: " + (
        "several rules write these" if fitting else "no rule writes these"
    )
    fix = "give --rule: embedx_sgd_param.name of the table" if fitting else "give the table's dim, with CtrCommonAccessor less 2"
    raise ConfigError(what, at=lines.path, fix=f"{fix} ({expected})")


def rows_of(lines: Lines, rule: str, dim: int) -> Rows:
    """Return the rows of some lines.

    Raises:
        SnapshotError: a line has another number of numbers, or a negative show or click.
    """
    short, whole = widths(rule, dim)
    counts = np.diff(lines.starts)
    wrong = (counts != short) & (counts != whole)
    if wrong.any():
        line = int(np.argmax(wrong))
        expected = " or ".join(map(str, sorted({short, whole})))
        what = f"the line has {counts[line]} numbers behind its key; {dim} weights by {rule} have {expected}"
        raise lines.refuse(line, what, "give the dim and --rule of this table, or save it again")
    n, first = len(counts), RULES[rule](1)
    table = np.zeros((n, whole), np.float32)
    table[np.arange(whole) < counts[:, None]] = lines.numbers  # a short line's others are 0, powers of the betas too
    low = WEIGHT + 1 + first
    weights = np.concatenate([table[:, WEIGHT : WEIGHT + 1], table[:, low : low + dim - 1]], axis=1)
    state = np.concatenate([table[:, WEIGHT + 1 : low], table[:, low + dim - 1 :]], axis=1)
    show, click = table[:, SHOW], table[:, CLICK]
    negative = (show < 0) | (click < 0)
    if negative.any():
        raise lines.refuse(int(np.argmax(negative)), "show or click is negative: this is no row of the accessors that are known")
    if rule in _ADAM:
        _check_powers(lines, state, first, dim)
    return Rows(lines.keys, weights, state, show, click)


def _check_powers(lines: Lines, state: Floats, first: int, dim: int) -> None:
    """The powers of the betas divide the moments: they lie between 0 and 1."""
    powers = [state[:, first - 2 : first]] + ([state[:, -2:]] if dim > 1 else [])
    wrong = ~np.all([(p >= 0) & (p < 1) for p in powers], axis=(0, 2))
    if wrong.any():
        raise lines.refuse(int(np.argmax(wrong)), "the powers of Adam's betas are not between 0 and 1", "give the table's --rule")


def state_here(rows: Rows, rule: str, spec: TableSpec) -> Floats:
    """Return the row state of ``spec``'s row optimizer that goes on from Paddle's, ``float32[n, state_dim]``.

    Raises:
        ConfigError: it cannot.
    """
    if spec.optimizer not in HERE[rule]:
        fix = f"take {' or '.join(HERE[rule])} as the row optimizer, or give up the state: --state drop"
        raise ConfigError(f"{spec.optimizer} cannot go on from the state of {rule}", at=f"table {spec.name!r}", fix=fix)
    n, dim, hyper = len(rows.keys), spec.dim, dict(spec.hyper)
    first = RULES[rule](1)
    parts = [(rows.state[:, :first], 1), (rows.state[:, first:], dim - 1)][: 1 if dim == 1 else 2]
    if rule == "SparseNaiveSGDRule":
        return np.zeros((n, 0), np.float32)
    if rule in _ADAM:
        betas = hyper.get("beta1", 0.9), hyper.get("beta2", 0.999)
        return np.concatenate([_moment(parts, which, betas[which]) for which in (0, 1)], axis=1)
    sums = np.concatenate([np.broadcast_to(state, (n, width)) for state, width in parts], axis=1)
    if spec.optimizer == "rowwise_adagrad":
        sums = sums.mean(axis=1, keepdims=True, dtype=np.float64)
    found: Floats = (sums + hyper.get("initial_accumulator_value", 0.0)).astype(np.float32)
    return found


def _moment(parts: list[tuple[Floats, int]], which: int, beta: float) -> Floats:
    """Return a moment of every weight without its bias: divided by 1 - beta^steps of the row itself."""
    columns = []
    for state, width in parts:
        own = (state.shape[1] - 2) // 2  # floats of one moment: one for each weight, or one they share
        moment = np.broadcast_to(state[:, which * own : (which + 1) * own], (len(state), width))
        power = state[:, -2 + which].astype(np.float64) / beta  # the server keeps that of the next step
        bias = np.maximum(1 - power, 1 - beta)[:, None]  # at least one step was taken where a moment is not 0
        columns.append((moment / bias).astype(np.float32))
    return np.concatenate(columns, axis=1)


def steps_without_bias(spec: TableSpec) -> int:
    """Return after how many steps of a table the bias correction of its Adam is 1, in float32; 0 for others."""
    if spec.optimizer not in ("adam", "adamw"):
        return 0
    betas = (dict(spec.hyper).get(name, default) for name, default in (("beta1", 0.9), ("beta2", 0.999)))
    return max(math.ceil(math.log(2.0**-25) / math.log(beta)) if beta > 0 else 1 for beta in betas)
