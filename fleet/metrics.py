"""Metrics over all trainers: sums of counts, never means of means.

Each trainer gives what it has (also nothing); every trainer gets the same number. Each call is a collective: all trainers
make it. Cost: one message on the control channel; for ``auc`` 2 x 65,536 counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet import exchange
from fleet.errors import ConfigError

AUC_BUCKETS = 1 << 16  # scores of one bucket count as ties: an error below 1e-4 for any smooth score distribution


def auc(scores: Any, labels: Any) -> float:
    """Return the area under the ROC curve of all trainers' samples; nan if one class is missing.

    Args:
        scores: float[n] in 0..1 (probabilities), or any finite float, which the logistic function then maps there.
        labels: n zeros and ones.

    Raises:
        ConfigError: lengths differ, a score is not finite, a label is neither 0 nor 1.

    Source: the rank statistic of Mann and Whitney over a histogram of scores; ties count half.
    """
    s, y = _flat(scores, np.float64), _flat(labels, np.float64)
    if len(s) != len(y):
        raise ConfigError(f"{len(s)} scores for {len(y)} labels", at="metrics.auc", fix="give one label a score")
    if not np.isfinite(s).all():
        raise ConfigError(
            f"{np.count_nonzero(~np.isfinite(s))} scores are not finite", at="metrics.auc", fix="find where the model went NaN"
        )
    if not np.isin(y, (0, 1)).all():
        raise ConfigError("labels must be 0 or 1", at="metrics.auc", fix="give the true classes")
    outside = float(len(s) and (s.min() < 0 or s.max() > 1))
    if exchange.all_reduce(outside, "max"):  # agreed, so that all trainers map alike
        s = 1 / (1 + np.exp(-np.clip(s, -700, 700)))
    bucket = np.minimum((s * AUC_BUCKETS).astype(np.int64), AUC_BUCKETS - 1)
    counts = np.stack([np.bincount(bucket[y == label], minlength=AUC_BUCKETS) for label in (0, 1)])
    negative, positive = exchange.all_reduce(counts.astype(np.float64))
    below = np.concatenate([[0.0], np.cumsum(negative)[:-1]])
    pairs = float(negative.sum() * positive.sum())
    return float((positive * (below + negative / 2)).sum() / pairs) if pairs else float("nan")


def accuracy(correct: Any, total: Any = None) -> float:
    """Return the share of correct samples: ``correct`` is bool[n], or a count with ``total`` beside it."""
    if total is not None:
        return _ratio(float(_flat(correct, np.float64).sum()), float(total), "metrics.accuracy")
    values = _flat(correct, np.float64)
    return _ratio(float(values.sum()), float(len(values)), "metrics.accuracy")


def mean(values: Any, weights: Any = None) -> float:
    """Return the mean of all trainers' values, float[n], weighted by weights, float[n]."""
    v = _flat(values, np.float64)
    w = np.ones_like(v) if weights is None else _flat(weights, np.float64)
    if len(v) != len(w):
        raise ConfigError(f"{len(v)} values for {len(w)} weights", at="metrics.mean", fix="give one weight a value")
    return _ratio(float((v * w).sum()), float(w.sum()), "metrics.mean")


def mae(predictions: Any, targets: Any) -> float:
    """Return the mean absolute error of all trainers' samples."""
    return mean(np.abs(_errors(predictions, targets, "metrics.mae")))


def rmse(predictions: Any, targets: Any) -> float:
    """Return the root of the mean squared error of all trainers' samples."""
    return float(np.sqrt(mean(_errors(predictions, targets, "metrics.rmse") ** 2)))


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
