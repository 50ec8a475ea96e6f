"""A LambdaRank model over the top of the blend, tried in every backtest and shipped only where it earns its place.

    trial = try_reranker(models, scores, weights, judge, catalogue, seed)
    trial.kept, trial.blend_ndcg, trial.reranked_ndcg        # False, 0.2134, 0.2101: the blend's own order ships

Features of a user and an item: the sources' scores, the blend's score and rank, popularity, size of the history, taste
for the item's categories, age of the item, time since anybody liked it. It learns from two thirds of the validation
users and is judged on the others, in turn.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from pipelines.recommendation.backtest_sources import Floats, Ints, Models, Rows
from pipelines.recommendation.blending import Judge
from whiteboard.recommendation.collaborative import standardised
from whiteboard.recommendation.metrics import hits_at_k, interval, ndcg_at_k

DEPTH = 200  # candidates that are re-ranked; below, hits are rare
TREES = 150
FOLDS = 3
MIN_USERS = 30  # with a hit to learn from; fewer teach nothing
PARAMS = {
    "objective": "lambdarank", "metric": "none", "learning_rate": 0.05, "num_leaves": 15, "min_data_in_leaf": 100,
    "feature_fraction": 0.7, "lambda_l2": 10.0, "lambdarank_truncation_level": 20, "num_threads": 1, "verbosity": -1,
    "deterministic": True,
}  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """What the validation said; `gain` is the mean difference in nDCG@k over `users`, `low`..`high` its interval."""

    kept: bool
    blend_ndcg: float
    reranked_ndcg: float
    low: float
    high: float
    users: int
    model: Any

    def as_json(self) -> dict[str, Any]:
        gain = {"gain": self.reranked_ndcg - self.blend_ndcg, "gain_interval": [self.low, self.high]}
        validation = {"users": self.users, "blend": self.blend_ndcg, "reranked": self.reranked_ndcg, **gain}
        return {"kept": self.kept, "validation": validation}


@dataclass(frozen=True)
class Catalogue:
    """Which categories an item has, as a sparse matrix items × categories whose rows sum to 1 (or 0)."""

    shares: sparse.csr_matrix

    @classmethod
    def of(cls, items: pd.DataFrame) -> "Catalogue":
        flags = items["categories"].fillna("").str.get_dummies().to_numpy(dtype=np.float32)
        return cls(sparse.csr_matrix(flags / np.maximum(flags.sum(axis=1, keepdims=True), 1)))


def features(
    rows: Rows, scores: dict[str, Floats], blend: Floats, users: Ints, listed: Ints, catalogue: Catalogue
) -> NDArray[np.float32]:
    """The features of the listed items of each user; (users · depth, features). Padding gets those of item 0."""
    codes = np.maximum(listed, 0)
    depth = codes.shape[1]
    taste = rows.matrix[users] @ catalogue.shares
    mine = taste.toarray() / np.maximum(np.asarray(taste.sum(axis=1)).reshape(-1, 1), 1)
    affinity = np.asarray(sparse.csr_matrix(mine) @ catalogue.shares.T.toarray(), dtype=np.float32)
    first, last = _first_and_last(rows)
    now = rows.last_s()[users][:, None]
    size = np.log1p(np.diff(rows.matrix[users].indptr))[:, None]
    columns: list[NDArray[Any]] = [
        *(np.take_along_axis(standardised(values), codes, axis=1) for values in (*scores.values(), blend)),
        np.take_along_axis(affinity, codes, axis=1),
        np.tile(np.arange(depth), (len(users), 1)),
        _places(rows.item_counts[codes]),
        np.tile(size, (1, depth)),
        _places(now - first[codes]),
        _places(now - last[codes]),
    ]
    return np.stack(columns, axis=2).reshape(-1, len(columns)).astype(np.float32)


def _places(values: NDArray[Any]) -> NDArray[np.float64]:
    """Each value's place within its row, in [0, 1): counts and ages grow with the data, places do not."""
    return np.asarray(np.argsort(np.argsort(values, axis=1, kind="stable"), axis=1) / values.shape[1])


def _first_and_last(rows: Rows) -> tuple[Ints, Ints]:
    end = rows.at_s.max()
    first = np.full(rows.n_items, end, dtype=np.int64)
    np.minimum.at(first, rows.items, rows.at_s)
    last = np.full(rows.n_items, rows.at_s.min(), dtype=np.int64)
    np.maximum.at(last, rows.items, rows.at_s)
    return first, last


def reranked(model: Any, matrix: NDArray[np.float32], listed: Ints) -> Ints:
    """The listed items in the model's order; padding stays last."""
    scores = np.asarray(model.predict(matrix, num_threads=1)).reshape(listed.shape)
    order = np.argsort(np.where(listed < 0, np.inf, -scores), axis=1, kind="stable")
    return np.take_along_axis(listed, order, axis=1)


def try_reranker(
    models: Models, scores: dict[str, Floats], blend: Floats, judge: Judge, catalogue: Catalogue, seed: int
) -> Trial | None:
    """Fits it on two thirds of the judge's users and compares it with the blend on the others, three times around.

    It is kept if the 95 % interval of its gain lies above zero; the model returned has learnt from all. None if too
    few users have something to learn from.
    """
    listed = judge.listed(blend, DEPTH)
    hits = hits_at_k(listed, judge.relevant)
    if hits.any(axis=1).sum() < MIN_USERS:
        return None
    matrix = features(models.rows, scores, blend, judge.users, listed, catalogue)
    fold = np.random.default_rng(seed).permutation(len(judge.users)) % FOLDS
    order = listed.copy()
    for held_out in range(FOLDS):
        rows = fold == held_out
        by_row = np.repeat(rows, DEPTH)
        model = _fitted(matrix[~by_row], hits[~rows], seed)
        order[rows] = reranked(model, matrix[by_row], listed[rows])
    after = ndcg_at_k(hits_at_k(order[:, : judge.k], judge.relevant), judge.counts)
    before = ndcg_at_k(hits[:, : judge.k], judge.counts)
    low, high = interval(after - before, seed=seed)
    final = _fitted(matrix, hits, seed)
    return Trial(low > 0, float(before.mean()), float(after.mean()), low, high, len(judge.users), final)


def _fitted(matrix: NDArray[np.float32], hits: NDArray[np.bool_], seed: int) -> Any:
    import lightgbm as lgb

    data = lgb.Dataset(matrix, hits.ravel().astype(np.int8), group=np.full(len(hits), hits.shape[1]))
    return lgb.train(PARAMS | {"seed": seed}, data, num_boost_round=TREES)
