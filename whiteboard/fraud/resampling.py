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


def calibration_errors(probability: Floats, is_fraud: Floats, weights: Floats, bins: int = 10) -> Floats:
    """The expected calibration error under each row of `weights`: mean |predicted - observed| share over groups.

    The groups hold equal expected frauds, so that the few risky payments make up most of them; each counts by its
    number of payments (Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", 2015).
    """
    order = np.argsort(probability, kind="stable")
    expected = np.cumsum(probability[order])
    group = np.empty(len(probability), dtype=np.int64)
    group[order] = np.minimum((expected / expected[-1] * bins).astype(np.int64), bins - 1)
    member = np.eye(bins)[group]  # (n, bins)
    gaps = np.abs((weights * (probability - is_fraud)) @ member)
    return np.asarray(gaps.sum(axis=1) / weights.sum(axis=1))


class CardDays:
    """Card precision on resampled cards: of the `cards_a_day` riskiest cards of each day, how many are compromised.

    A card that was found leaves the following days (Fraud Detection Handbook, chapter 4).
    """

    def __init__(self, day: Sequence[Any], card: Sequence[Any], is_fraud: Floats, cards_a_day: int = 100) -> None:
        days, cards = (
            np.unique(np.asarray(day), return_inverse=True)[1],
            np.unique(np.asarray(card), return_inverse=True)[1],
        )
        pairs, self._first, self._pair = np.unique(
            days * (cards.max(initial=0) + 1) + cards, return_index=True, return_inverse=True
        )
        self._day, self._card, self._cards_a_day = days[self._first], cards[self._first], cards_a_day
        self._compromised = np.zeros(len(pairs), dtype=bool)
        np.logical_or.at(self._compromised, self._pair, is_fraud > 0)

    def precisions(self, score: Floats, counts: Floats) -> Floats:
        """The mean card precision over the days, under each row of `counts` (draws, n): how often a row's card is drawn."""
        risk = np.full(len(self._day), -np.inf)
        np.maximum.at(risk, self._pair, score)
        by_day = [here[np.argsort(-risk[here], kind="stable")] for here in self._pairs_by_day()]
        return np.array([self._mean_precision(by_day, drawn[self._first]) for drawn in counts])

    def _pairs_by_day(self) -> list[NDArray[np.int64]]:
        return [np.flatnonzero(self._day == day) for day in range(int(self._day.max(initial=-1)) + 1)]

    def _mean_precision(self, by_day: list[NDArray[np.int64]], drawn: Floats) -> float:
        found = np.zeros(int(self._card.max(initial=-1)) + 1, dtype=bool)
        precisions = []
        for pairs in by_day:
            left = pairs[(drawn[pairs] > 0) & ~found[self._card[pairs]]]
            before = np.cumsum(drawn[left]) - drawn[left]
            checked = np.clip(self._cards_a_day - before, 0, drawn[left])
            hits = left[(checked > 0) & self._compromised[left]]
            precisions.append(float(checked @ self._compromised[left]) / self._cards_a_day)
            found[self._card[hits]] = True
        return float(np.mean(precisions))
