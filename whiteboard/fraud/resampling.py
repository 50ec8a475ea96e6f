"""Ranking metrics on many resamples at once: the noise in a metric, and whether a difference is beyond it.

The resampling unit is the card (or another entity): a leaked card brings several frauds at once, so resampling
single payments would make everything look surer than it is. A Poisson bootstrap draws how often each unit counts
(Chamandy et al., "Estimating uncertainty for massive data streams", 2012), so a resample is a vector of weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_CELLS = 4_000_000  # resamples × payments held in memory at a time


def weights_by_unit(units: Sequence[Any], weight: Floats, *, draws: int, seed: int = 0) -> Floats:
    """`draws` resamples as weights (draws, n): those of `weight`, times how often each row's unit was drawn."""
    _, codes = np.unique(np.asarray(units), return_inverse=True)
    counts = np.random.default_rng(seed).poisson(1.0, (draws, int(codes.max(initial=-1)) + 1))
    return np.asarray(counts[:, codes] * weight)


def bounded_draws(rows: int, wanted: int = 400) -> int:
    """As many resamples as fit a few seconds; 40 give a usable interval, 400 a smooth one."""
    return int(np.clip(20_000_000 // max(rows, 1), 40, wanted))


def average_precisions(score: Floats, is_fraud: Floats, weights: Floats) -> Floats:
    """The average precision under each row of `weights` (draws, n); nan for a resample without frauds.

    Ties count as one threshold, as in scikit-learn. A random ranking has the share of frauds.
    """
    return _ranked(score, is_fraud, weights, _average_precision)


def roc_aucs(score: Floats, is_fraud: Floats, weights: Floats) -> Floats:
    """The area under the ROC curve under each row of `weights`; nan for a resample of one class only."""
    return _ranked(score, is_fraud, weights, _roc_auc)


def _ranked(score: Floats, is_fraud: Floats, weights: Floats, metric: Any) -> Floats:
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    rows = max(1, _CELLS // max(len(score), 1))
    parts = []
    for first in range(0, len(weights), rows):
        chunk = weights[first : first + rows, :][:, order]
        frauds = np.cumsum(chunk * is_fraud[order], axis=1)[:, ends]
        everything = np.cumsum(chunk, axis=1)[:, ends]
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append(metric(frauds, everything))
    return np.concatenate(parts)


def _average_precision(frauds: Floats, everything: Floats) -> Floats:
    recall = frauds / frauds[:, -1:]
    precision = np.where(everything > 0, frauds / everything, 0.0)
    return np.sum(np.diff(recall, axis=1, prepend=0.0) * precision, axis=1)


def _roc_auc(frauds: Floats, everything: Floats) -> Floats:
    caught, alarmed = frauds / frauds[:, -1:], (everything - frauds) / (everything - frauds)[:, -1:]
    start = np.zeros((len(frauds), 1))
    return np.asarray(np.trapezoid(np.hstack([start, caught]), np.hstack([start, alarmed]), axis=1))
