"""Fits the members of the ensemble, and keeps beside the trees only what raises the metric on a later slice.

| members                  | average precision | better than trees alone with probability | kept |
| trees                    | 0.871             |                                          | yes  |
| trees + linear           | 0.869             | 0.38                                     |      |
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.fraud.dataset import Dataset
from pipelines.fraud.evaluate import average_precision, better
from whiteboard import distributed
from whiteboard.distributed import Rows
from whiteboard.fraud.members import Anomaly, Linear, Member, squash
from whiteboard.fraud.model import RISING

if TYPE_CHECKING:
    from distributed import Client

Floats = NDArray[np.float64]

# Shallow, slow, with every split resting on at least 50 payments: deeper or faster trees gained nothing on later days.
TREES: dict[str, Any] = {
    "num_leaves": 15,
    "learning_rate": 0.04,
    "min_data_in_leaf": 50,
    "lambda_l2": 5.0,
    "feature_fraction": 0.6,
}
_MOST_ROWS = 200_000
BEYOND_NOISE = 0.9  # the probability of being better that earns a member, or tuned parameters, their place


def fit_trees(
    train: Dataset,
    *,
    params: Mapping[str, Any] | None = None,
    rounds: int = 300,
    stop: Dataset | None = None,
    patience: int = 50,
    seed: int = 0,
    client: "Client | None" = None,
) -> lightgbm.Booster:
    """Boosted trees with RISING features held monotone; with `stop`, as many as serve its average precision best.

    By the workers of `client` if there is one; they do not see `stop`.
    """
    settings = {
        **TREES,
        **(params or {}),
        "objective": "binary",
        "metric": "average_precision",
        "monotone_constraints": [int(name in RISING) for name in train.features],
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        # On a machine with other work OpenMP's threads wait for each other actively: 2 were 30 times slower than 1.
        "num_threads": 1,
        "verbosity": -1,
    }
    if client is not None:
        rows = Rows(list(train.features), train.matrix(), train.is_fraud, train.weight)
        booster = distributed.fit_trees(client, settings, rounds, rows)
        if stop is not None:
            judge = partial(average_precision, stop)
            booster.best_iteration = distributed.best_iteration(booster, stop.matrix(), judge, patience)
        return booster
    data = _lightgbm_set(train)
    if stop is None:
        return lightgbm.train(settings, data, rounds)
    quiet: list[Any] = [lightgbm.early_stopping(patience, verbose=False)]
    return lightgbm.train(settings, data, rounds, valid_sets=[_lightgbm_set(stop, data)], callbacks=quiet)


def _lightgbm_set(rows: Dataset, reference: lightgbm.Dataset | None = None) -> lightgbm.Dataset:
    names = list(rows.features)
    return lightgbm.Dataset(rows.matrix(), rows.is_fraud, weight=rows.weight, feature_name=names, reference=reference)


def fit_linear(train: Dataset) -> Linear:
    """A logistic regression on squashed features (robust centre and scale, so that no amount is too large for it)."""
    from sklearn.linear_model import LogisticRegression

    train = _sample(train)
    center, scale = _scales(train.matrix())
    squashed = _squashed(train.matrix(), center, scale)
    fitted = LogisticRegression(C=1.0, max_iter=300).fit(squashed, train.is_fraud, train.weight)
    return Linear(center, scale, fitted.coef_[0].tolist(), float(fitted.intercept_[0]))


def fit_anomaly(train: Dataset) -> Anomaly:
    """The Mahalanobis distance from the honest payments, with the covariance shrunk as Ledoit and Wolf (2004) do."""
    from sklearn.covariance import LedoitWolf

    train = _sample(train)
    center, scale = _scales(train.matrix())
    fitted = LedoitWolf().fit(_squashed(train.matrix(), center, scale)[train.is_fraud == 0])
    # d² = x' P x with P = L L', so d² = |L' x|²; flipped twice, L' is lower triangular and a row ends at its diagonal.
    factor = np.linalg.cholesky(fitted.precision_[::-1, ::-1])[::-1, ::-1]
    rows = [row[: i + 1].tolist() for i, row in enumerate(factor.T)]
    return Anomaly(center, scale, fitted.location_.tolist(), rows)


def _sample(rows: Dataset) -> Dataset:
    """Every n-th payment, so that at most _MOST_ROWS remain: a few dozen coefficients need no more."""
    return rows.where(np.arange(len(rows)) % max(1, -(-len(rows) // _MOST_ROWS)) == 0)


def _scales(matrix: Floats) -> tuple[list[float], list[float]]:
    low, middle, high = np.nanpercentile(matrix, [25, 50, 75], axis=0)
    spread = np.where(high > low, high - low, np.nanstd(matrix, axis=0))
    return np.nan_to_num(middle).tolist(), np.where(np.nan_to_num(spread) > 0, spread, 1.0).tolist()


def _squashed(matrix: Floats, center: Sequence[float], scale: Sequence[float]) -> Floats:
    columns = [squash(column, c, s) for column, c, s in zip(matrix.T, center, scale, strict=True)]
    return np.column_stack(columns)


@dataclass(frozen=True)
class Candidate:
    """One line of the ablation: members with their weights, and how they rank the judging slice."""

    members: str
    weights: dict[str, float]
    average_precision: float
    better_probability: float | None  # than the trees alone; None for the trees
    kept: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def ablate(trees: lightgbm.Booster, others: Mapping[str, Member], rows: Dataset, seed: int = 0) -> list[Candidate]:
    """Every combination of the trees with `others`, weighed and judged on `rows`, later than what they learnt from.

    The weights that judge one half of the cards were fitted on the other half. One combination is kept: that with the
    highest average precision among those that beat the trees alone with BEYOND_NOISE (bootstrap over cards), else
    the trees.
    """
    scores = _scores(trees, others, rows)
    half = pd.util.hash_array(rows.frame["customer_id"].to_numpy(dtype=object)) % 2 == 0
    found = []
    for chosen in (names for size in range(len(others) + 1) for names in combinations(others, size)):
        members = [scores[name] for name in ("trees", *chosen)]
        blend = np.where(half, _blend(members, rows, ~half), _blend(members, rows, half))
        value = average_precision(rows, blend)
        probability = better(rows, blend, scores["trees"], seed=seed) if chosen else None
        weights = dict(zip(chosen, _stack_weights(members, rows, np.full(len(rows), True)), strict=True))
        found.append(Candidate(" + ".join(("trees", *chosen)), weights, value, probability))
    earned = [c for c in found if c.better_probability is None or c.better_probability >= BEYOND_NOISE]
    best = max(earned, key=lambda c: c.average_precision)
    return [replace(c, kept=c is best) for c in found]


def _blend(scores: Sequence[Floats], rows: Dataset, fitted_on: NDArray[np.bool_]) -> Floats:
    weights = _stack_weights(scores, rows, fitted_on)
    return np.asarray(scores[0] + sum(w * s for w, s in zip(weights, scores[1:], strict=True)))


def _scores(trees: lightgbm.Booster, others: Mapping[str, Member], rows: Dataset) -> dict[str, Floats]:
    columns = list(rows.matrix().T)
    scores = {"trees": np.asarray(trees.predict(rows.matrix(), raw_score=True, num_threads=1))}
    return scores | {name: member.score(columns) for name, member in others.items()}


def _stack_weights(scores: Sequence[Floats], rows: Dataset, chosen: NDArray[np.bool_]) -> list[float]:
    """The weights of all scores but the first, relative to the first, by logistic regression; none below 0."""
    from sklearn.linear_model import LogisticRegression

    if len(scores) == 1 or not rows.is_fraud[chosen].any():
        return [0.0] * (len(scores) - 1)
    spreads = [float(np.std(s)) or 1.0 for s in scores]
    scaled = np.column_stack([s / spread for s, spread in zip(scores, spreads, strict=True)])[chosen]
    fitted = LogisticRegression(C=0.1).fit(scaled, rows.is_fraud[chosen], rows.weight[chosen]).coef_[0]
    lead = max(float(fitted[0]), 1e-3) / spreads[0]
    return [max(float(c), 0.0) / spread / lead for c, spread in zip(fitted[1:], spreads[1:], strict=True)]
