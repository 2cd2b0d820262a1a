"""Metrics over all trainers: sums of counts, never means of means.

Each trainer gives what it has (also nothing); every trainer gets the same number. Each call is a collective: all trainers
make it. Cost: one message on the control channel; for ``auc`` 2 x 65,536 counts.

The forms of ``paddle.distributed.fleet.metrics``, which take sums and histograms that a trainer has already made, are here by
name: ``auc(stat_pos=, stat_neg=)``, ``mae(abserr=, total_ins_num=)``, ``rmse`` and ``mse(sqrerr=, total_ins_num=)``, ``acc``,
``sum``, ``max``, ``min``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet import exchange
from fleet.errors import ConfigError

AUC_BUCKETS = 1 << 16  # scores of one bucket count as ties: an error below 1e-4 for any smooth score distribution


def auc(scores: Any = None, labels: Any = None, *, stat_pos: Any = None, stat_neg: Any = None) -> float:
    """Return the area under the ROC curve of all trainers' samples; nan if one class is missing.

    Args:
        scores: float[n] in 0..1 (probabilities), or any finite float, which the logistic function then maps there.
        labels: n zeros and ones.
        stat_pos: in place of both, as ``paddle.metric.Auc`` counts them: how many positive samples fell into each bucket of
            scores, lowest first, number[buckets].
        stat_neg: likewise the negative ones.

    Raises:
        ConfigError: lengths differ, a score is not finite, a label is neither 0 nor 1.

    Source: the rank statistic of Mann and Whitney over a histogram of scores; ties count half.
    """
    if (scores is None) != (labels is None) or (stat_pos is None) != (stat_neg is None) or (scores is None) == (stat_pos is None):
        fix = "give scores and labels, or stat_pos= and stat_neg="
        raise ConfigError("auc takes two arrays of one kind", at="metrics.auc", fix=fix)
    if scores is None:
        counts = [_flat(stat_neg, np.float64), _flat(stat_pos, np.float64)]
        if len(counts[0]) != len(counts[1]):
            what = f"{len(counts[1])} buckets of positive samples, {len(counts[0])} of negative ones"
            raise ConfigError(what, at="metrics.auc", fix="count both in the same buckets")
        return _area(np.stack(counts))
    s, y = _flat(scores, np.float64), _flat(labels, np.float64)
    if len(s) != len(y):
        raise ConfigError(f"{len(s)} scores for {len(y)} labels", at="metrics.auc", fix="give one label a score")
    if not np.isfinite(s).all():
        raise ConfigError(
            f"{np.count_nonzero(~np.isfinite(s))} scores are not finite", at="metrics.auc", fix="find where the model went NaN"
        )
    if not np.isin(y, (0, 1)).all():
        fix = "give the true classes; histograms go by name: auc(stat_pos=, stat_neg=)"
        raise ConfigError("labels must be 0 or 1", at="metrics.auc", fix=fix)
    outside = float(len(s) and (s.min() < 0 or s.max() > 1))
    if exchange.all_reduce(outside, "max"):  # agreed, so that all trainers map alike
        s = 1 / (1 + np.exp(-np.clip(s, -700, 700)))
    bucket = np.minimum((s * AUC_BUCKETS).astype(np.int64), AUC_BUCKETS - 1)
    return _area(np.stack([np.bincount(bucket[y == label], minlength=AUC_BUCKETS) for label in (0, 1)]))


def _area(counts: NDArray[Any]) -> float:
    """Return the area from this trainer's counts, number[2, buckets]: negative samples, then positive ones."""
    negative, positive = exchange.all_reduce(counts.astype(np.float64))
    below = np.concatenate([[0.0], np.cumsum(negative)[:-1]])
    pairs = float(negative.sum() * positive.sum())
    return float((positive * (below + negative / 2)).sum() / pairs) if pairs else float("nan")


def accuracy(correct: Any, total: Any = None) -> float:
    """Return the share of correct samples: ``correct`` is bool[n], or a count with ``total`` beside it."""
    if total is not None:
        return _ratio(_total(correct), _total(total), "metrics.accuracy")
    values = _flat(correct, np.float64)
    return _ratio(float(values.sum()), float(len(values)), "metrics.accuracy")


def mean(values: Any, weights: Any = None) -> float:
    """Return the mean of all trainers' values, float[n], weighted by weights, float[n]."""
    v = _flat(values, np.float64)
    w = np.ones_like(v) if weights is None else _flat(weights, np.float64)
    if len(v) != len(w):
        raise ConfigError(f"{len(v)} values for {len(w)} weights", at="metrics.mean", fix="give one weight a value")
    return _ratio(float((v * w).sum()), float(w.sum()), "metrics.mean")


def mae(predictions: Any = None, targets: Any = None, *, abserr: Any = None, total_ins_num: Any = None) -> float:
    """Return the mean absolute error of all trainers' samples; ``abserr`` is a sum already made, over ``total_ins_num`` samples."""
    if _is_sum(abserr, total_ins_num, predictions, targets, "metrics.mae"):
        return _ratio(_total(abserr), _total(total_ins_num), "metrics.mae")
    return mean(np.abs(_errors(predictions, targets, "metrics.mae")))


def mse(predictions: Any = None, targets: Any = None, *, sqrerr: Any = None, total_ins_num: Any = None) -> float:
    """Return the mean squared error of all trainers' samples; ``sqrerr`` is a sum already made, over ``total_ins_num`` samples."""
    if _is_sum(sqrerr, total_ins_num, predictions, targets, "metrics.mse"):
        return _ratio(_total(sqrerr), _total(total_ins_num), "metrics.mse")
    return mean(_errors(predictions, targets, "metrics.mse") ** 2)


def rmse(predictions: Any = None, targets: Any = None, *, sqrerr: Any = None, total_ins_num: Any = None) -> float:
    """Return the root of :func:`mse`."""
    return float(np.sqrt(mse(predictions, targets, sqrerr=sqrerr, total_ins_num=total_ins_num)))


def acc(correct: Any, total: Any) -> float:
    """Return the share of correct samples from the sums of each trainer: Paddle's name of :func:`accuracy`."""
    return accuracy(correct, total)


def sum(input: Any) -> Any:
    """Return the sum over all trainers, element by element, as a NumPy array: Paddle's name of ``fleet.all_reduce``."""
    return exchange.all_reduce(_array(input), "sum")


def max(input: Any) -> Any:
    """Return the largest over all trainers, element by element, as a NumPy array."""
    return exchange.all_reduce(_array(input), "max")


def min(input: Any) -> Any:
    """Return the smallest over all trainers, element by element, as a NumPy array."""
    return exchange.all_reduce(_array(input), "min")


def _array(values: Any) -> NDArray[Any]:
    return np.asarray(values.numpy() if hasattr(values, "numpy") else values)


def _total(value: Any) -> float:
    return float(_flat([value] if np.isscalar(value) else value, np.float64).sum())


def _is_sum(error: Any, count: Any, predictions: Any, targets: Any, at: str) -> bool:
    """Return whether sums were given; refuse what is neither."""
    if (error is None) != (count is None) or (predictions is None) != (targets is None) or (error is None) == (predictions is None):
        fix = "give predictions and targets, or a sum of errors and total_ins_num= by name"
        raise ConfigError("neither two arrays nor a sum and its count", at=at, fix=fix)
    return error is not None


def _ratio(total: float, count: float, at: str) -> float:
    both = exchange.all_reduce(np.array([total, count]))
    if not both[1]:
        raise ConfigError("no trainer gave a sample", at=at, fix="evaluate on data that are not empty")
    return float(both[0] / both[1])


def _errors(predictions: Any, targets: Any, at: str) -> NDArray[np.float64]:
    p, t = _flat(predictions, np.float64), _flat(targets, np.float64)
    if len(p) != len(t):
        raise ConfigError(f"{len(p)} predictions for {len(t)} targets", at=at, fix="give one target a prediction")
    errors: NDArray[np.float64] = p - t
    return errors


def _flat(values: Any, dtype: Any) -> NDArray[Any]:
    if hasattr(values, "numpy"):
        values = values.numpy()
    elif isinstance(values, (list, tuple)):
        values = [v.numpy() if hasattr(v, "numpy") else v for v in values]
        values = np.concatenate([np.reshape(v, -1) for v in values]) if values else np.empty(0)
    return np.asarray(values, dtype=dtype).reshape(-1)
