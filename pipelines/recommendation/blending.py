"""Choosing on a validation split: each source's hyper-parameters, and how much each source weighs in the blend.

    choice, known = tune(fit_rows, judge, seed)         # the grids below, by nDCG@k on the validation rows
    weights = blend_weights(scores, judge)              # {"edlae": 1.0, "als": 0.4, "trending": 0.1, …}

The validation rows come out of the training rows by the same kind of split; the test is never looked at.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pipelines.recommendation.backtest_sources import (
    ALS,
    DAY_S,
    EASE,
    EDLAE,
    TRENDING,
    Choice,
    Floats,
    Ints,
    Rows,
    Trend,
)
from whiteboard.recommendation.collaborative import LinearAutoencoder, WeightedALS, blend, standardised
from whiteboard.recommendation.metrics import hits_at_k, ndcg_at_k, top_k

EASE_GRID = (100.0, 300.0, 800.0)  # l2; in steps of about 3
EDLAE_GRID = ((50.0, 0.5), (200.0, 0.5), (200.0, 0.33), (100.0, 0.75))  # l2, dropout
ALS_GRID = ((16, 10.0, 1.0), (32, 10.0, 1.0), (32, 30.0, 2.0), (48, 30.0, 3.0))  # factors, l2, alpha
HALF_LIVES = (0.003, 0.02, 0.1, 0.5)  # of the span of the data
SHARES = (0.2, 0.35, 0.5)  # of ALS beside EDLAE
STEPS = (0.0, 0.03, 0.08, 0.2, 0.4, 0.8)  # weights tried for a source, beside 1 for the best
MIN_GAIN = 0.001  # in nDCG; what is below is the luck of the validation rows
SWEEPS = 2  # over the sources


@dataclass(frozen=True)
class Judge:
    """Judges score matrices of some users: what they have seen is never listed, what they did later is relevant."""

    users: Ints
    seen: sparse.csr_matrix  # users × items
    relevant: sparse.csr_matrix  # users × items
    k: int

    @classmethod
    def of(cls, train: Rows, later: Rows, k: int, limit: int, seed: int) -> "Judge":
        """Of the users with later rows, `limit` at most, drawn at random."""
        users = np.unique(later.users)
        if len(users) > limit:
            users = np.sort(np.random.default_rng(seed).choice(users, limit, replace=False))
        return cls(users, train.matrix[users], later.matrix[users], k)

    @property
    def counts(self) -> Ints:
        """How many relevant items each user has."""
        return np.asarray(np.diff(self.relevant.indptr), dtype=np.int64)

    def listed(self, scores: Floats, k: int | None = None) -> Ints:
        """The best unseen items of each user; (users, k)."""
        open_ = np.array(scores, dtype=np.float32)
        open_[self.seen.nonzero()] = -np.inf
        return top_k(open_, k or self.k)

    def ndcg(self, scores: Floats) -> NDArray[np.float64]:
        """nDCG@k of each user."""
        return ndcg_at_k(hits_at_k(self.listed(scores), self.relevant), self.counts)

    def mean(self, scores: Floats) -> float:
        """Mean nDCG@k."""
        return float(self.ndcg(scores).mean())


def tune(rows: Rows, judge: Judge, seed: int, step: Callable[[str], None]) -> tuple[Choice, dict[str, Any]]:
    """The best of each grid on the validation rows, and the models already fitted with it, by source."""
    matrix, seen = rows.matrix, judge.seen
    known: dict[str, Any] = {}

    def best(source: str, grid: tuple[Any, ...], fitted: Callable[[Any], Any]) -> Any:
        found, top = grid[0], -1.0
        for setting in grid:
            model = fitted(setting)
            value = judge.mean(model.at(rows.last_s()[judge.users]) if source == TRENDING else model.scores_of(seen))
            if value > top:
                found, top, known[source] = setting, value, model
            step(f"{source} {setting}")
        return found

    ease = best(EASE, EASE_GRID, lambda l2: LinearAutoencoder.fit(matrix, l2=l2))
    edlae = best(EDLAE, EDLAE_GRID, lambda at: LinearAutoencoder.fit(matrix, l2=at[0], dropout=at[1]))
    als = best(ALS, ALS_GRID, lambda at: WeightedALS.fit(matrix, factors=at[0], l2=at[1], alpha=at[2], seed=seed))
    span_days = max(1.0, float(np.ptp(rows.at_s)) / DAY_S)
    half_life = best(TRENDING, tuple(span_days * share for share in HALF_LIVES), lambda days: Trend.fit(rows, days))
    chosen = Choice(ease_l2=ease, edlae_l2=edlae[0], dropout=edlae[1], half_life_days=half_life)
    return replace(chosen, factors=als[0], als_l2=als[1], alpha=als[2]), known


GRID_SIZE = len(EASE_GRID) + len(EDLAE_GRID) + len(ALS_GRID) + len(HALF_LIVES)


def als_share(scores: Mapping[str, Floats], judge: Judge) -> float:
    """The share of ALS beside EDLAE that is best on the validation rows."""
    return max(SHARES, key=lambda share: judge.mean(blend(scores[EDLAE], scores[ALS], share)))


def blend_weights(scores: Mapping[str, Floats], judge: Judge) -> dict[str, float]:
    """The weight of each source's standardised scores: coordinate ascent on nDCG@k.

    It begins with the best source alone, or with EDLAE and ALS at their best share where that is better, and changes a
    weight only for a gain of MIN_GAIN at least.
    """
    parts = {name: standardised(values) for name, values in scores.items()}
    single = {name: judge.mean(values) for name, values in parts.items()}
    share = als_share(scores, judge)
    starts = [{name: 1.0} for name in parts] + [{EDLAE: 1 - share, ALS: share}]
    values = [*single.values(), judge.mean(blend(scores[EDLAE], scores[ALS], share))]
    top = max(values)
    weights = dict.fromkeys(parts, 0.0) | starts[values.index(top)]
    total = blended(scores, weights)
    for _ in range(SWEEPS):
        for name in sorted(parts, key=lambda name: -single[name]):
            rest = total - weights[name] * parts[name]
            tried = {weight: judge.mean(rest + weight * parts[name]) for weight in STEPS if weight != weights[name]}
            weight = max(tried, key=lambda weight: tried[weight])
            if tried[weight] > top + MIN_GAIN:
                weights[name], top = weight, tried[weight]
            total = rest + weights[name] * parts[name]
    return weights


def blended(scores: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """The weighted sum of the sources' standardised scores; (users, items)."""
    used = [weight * standardised(scores[name]) for name, weight in weights.items() if weight]
    return np.asarray(sum(used), dtype=np.float32)
