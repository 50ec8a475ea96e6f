"""How well a ranker orders what was shown: each metric with its interval, the random floor and the oracle's ceiling.

    evaluation = evaluate(model, test)
    evaluation.metrics["ndcg_at_10"]     {"value": 0.612, "low": 0.590, "high": 0.633, "floor": 0.441, "ceiling": 1.0}

A click counts for what it stands for at its position (position_bias.py), so that the order in which the lists were
shown is no advantage to the model that made it. Requests without a click say nothing and are left out.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.recommendation.dataset import Dataset
from whiteboard.errors import NotEnoughDataError
from whiteboard.recommendation.model import RecommendationModel
from whiteboard.recommendation.position_bias import PositionBias

Floats = NDArray[np.float64]

K = 10
DRAWS = 200


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name (value, low, high, floor, ceiling), and the slice that they were measured on."""

    metrics: dict[str, dict[str, float]]
    requests: int
    clicks: int

    def flat(self) -> dict[str, float]:
        """Name → number for a run's metrics: `ndcg_at_10`, `ndcg_at_10_low`, …"""
        flat = {"test_requests": float(self.requests), "test_clicks": float(self.clicks)}
        for name, metric in self.metrics.items():
            flat |= {name if part == "value" else f"{name}_{part}": number for part, number in metric.items()}
        return flat

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Requests:
    """Requests with a click, as padded matrices (n, k): what a click stands for (0: none), and who asked (n,)."""

    rows: NDArray[np.int64]  # (n, k) rows of the data set, -1 for none
    gain: Floats
    user: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Dataset, bias: PositionBias) -> "Requests":
        """The requests of `rows` in which something was clicked. Raises NotEnoughDataError if there is none."""
        request, position = rows.request, rows.position
        clicked = np.bincount(request, rows.grade > 0) > 0
        if not clicked.any():
            raise NotEnoughDataError(f"no click on {len(rows)} items shown: nothing to judge an order by")
        width = int(np.bincount(request).max())
        place = np.arange(len(rows)) - np.searchsorted(request, request)
        at = np.full((len(clicked), width), -1)
        at[request, place] = np.arange(len(rows))
        gain = np.append(np.where(rows.grade > 0, bias.weight(position) * rows.grade, 0), 0.0)
        users = np.unique(rows.frame["user_id"].to_numpy()[at[:, 0]], return_inverse=True)[1]
        return cls(at[clicked], gain[at][clicked], np.unique(users[clicked], return_inverse=True)[1])

    def ndcg(self, scores: Floats) -> Floats:
        """nDCG@K of each request when its items are ordered by `scores` (rows of the data set,); (n,)."""
        padded = np.where(self.rows >= 0, np.append(scores, 0.0)[self.rows], -np.inf)
        order = np.argsort(-padded, axis=1, kind="stable")
        return _dcg(np.take_along_axis(self.gain, order, axis=1)) / _dcg(-np.sort(-self.gain, axis=1))

    def interval(self, values: Floats, seed: int = 0) -> tuple[float, float]:
        """The 95 % interval of the mean, by a bootstrap over users, whose requests are alike."""
        means = resampled(values, self.user, seed)
        return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def resampled(values: Floats, user: NDArray[np.int64], seed: int = 0) -> Floats:
    """The mean of `values` over resampled users, (DRAWS,)."""
    users = int(user.max()) + 1
    sums, counts = np.bincount(user, values, users), np.bincount(user, minlength=users)
    copies = np.random.default_rng(seed).multinomial(users, np.full(users, 1 / users), DRAWS)
    return np.asarray((copies @ sums) / np.maximum(copies @ counts, 1))


def evaluate(model: RecommendationModel, test: Dataset, *, seed: int = 0) -> Evaluation:
    """The metrics of the model's ranker on `test`, a slice later than all that it learnt from."""
    requests = Requests.of(test, model.bias)
    scores = model.rank(test.frame[list(model.features)].to_numpy(dtype=np.float64))
    chance = np.mean([requests.ndcg(r) for r in np.random.default_rng(seed).random((20, len(test)))], axis=0)
    named = {
        "ndcg_at_10": requests.ndcg(scores),
        "ndcg_at_10_popularity": requests.ndcg(popularity(test)),
        "ndcg_at_10_collaborative": requests.ndcg(test.frame["score_collaborative"].to_numpy(dtype=np.float64)),
        "ndcg_at_10_as_shown": requests.ndcg(-test.position.astype(np.float64)),
    }
    metrics = {}
    for name, values in named.items():
        low, high = requests.interval(values, seed)
        metrics[name] = {"value": float(values.mean()), "low": low, "high": high} | {
            "floor": float(chance.mean()), "ceiling": 1.0,
        }  # fmt: skip
    return Evaluation(metrics, len(requests.rows), int((test.grade > 0).sum()))


def popularity(rows: Dataset) -> Floats:
    """What the popularity policy ranks by: the likes of the last week."""
    return rows.frame["item_likes_7d"].to_numpy(dtype=np.float64)


def better(requests: Requests, scores: Floats, than: Floats, *, seed: int = 0) -> float:
    """The probability that `scores` order better than `than`, by a paired bootstrap over users; a tie counts half."""
    difference = resampled(requests.ndcg(scores) - requests.ndcg(than), requests.user, seed)
    return float(np.mean(difference > 0) + 0.5 * np.mean(difference == 0))


def _dcg(gain: Floats) -> Floats:
    top = gain[:, :K]
    return np.asarray(top @ (1 / np.log2(np.arange(2, top.shape[1] + 2))))
