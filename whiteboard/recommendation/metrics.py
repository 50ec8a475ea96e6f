"""How good top-k recommendations are: ranking per user, and what the lists cover together.

    hits = hits_at_k(recommended, relevant)         # (users, k) bool, from item codes and a sparse users × items matrix
    np.nanmean(ndcg_at_k(hits, relevant_counts))    # 0.393

Definitions are those of recommenders-team/recommenders (`python_evaluation`): relevance is binary, the discount
logarithmic, an average precision is divided by min(k, relevant items). Every ranking metric gives one value a user, NaN
for a user without relevant items, who has no part in a mean (`np.nanmean`). Ties are settled before: a list is a list;
`top_k` puts the item with the lower code first. A list shorter than k is padded with -1, which never hits.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

NONE = -1  # pads a list that is shorter than k
_DRAWS = 1_000  # of the bootstrap


def top_k(scores: NDArray[np.floating[Any]], k: int) -> Ints:
    """The codes of the k best items of each row, best first; (rows, k). Ties: the lower code; -inf is never listed.

    >>> top_k(np.array([[0.5, 2.0, 2.0, -np.inf]]), k=4).tolist()
    [[1, 2, 0, -1]]
    """
    rows, items = scores.shape
    width = min(k, items)
    listed = np.full((rows, k), NONE, dtype=np.int64)
    if not rows or not width:
        return listed
    threshold = np.partition(scores, items - width, axis=1)[:, items - width]
    for row, limit in enumerate(threshold):  # all that reach the k-th best score, so that ties are settled by code
        found = np.flatnonzero(scores[row] >= limit)
        best = found[np.argsort(-scores[row, found], kind="stable")][:width]
        best = best[np.isfinite(scores[row, best])]
        listed[row, : len(best)] = best
    return listed


def hits_at_k(recommended: Ints, relevant: Any) -> Mask:
    """Which recommendations are relevant; (users, k). `relevant` is a sparse matrix, users × items, non-zero if so.

    >>> from scipy.sparse import csr_matrix
    >>> hits_at_k(np.array([[2, 0, -1]]), csr_matrix([[0, 1, 1]])).tolist()
    [[True, False, False]]
    """
    users, items = relevant.shape
    flags = np.zeros((users, items + 1), dtype=bool)  # the last column stands for NONE
    rows, columns = relevant.nonzero()
    flags[rows, columns] = True
    return np.asarray(np.take_along_axis(flags, np.where(recommended < 0, items, recommended), axis=1))


def ndcg_at_k(hits: ArrayLike, relevant: ArrayLike) -> Floats:
    """nDCG of each user: the discounted hits, divided by those of a list with all relevant items first; in [0, 1].

    >>> ndcg_at_k([[True, False], [False, True], [False, False]], [1, 5, 0]).round(3).tolist()
    [1.0, 0.387, nan]
    """
    found, counts = np.asarray(hits, dtype=np.float64), np.asarray(relevant)
    k = found.shape[1]
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(counts, k)]
    return _ratio(found @ discount, ideal)


def precision_at_k(hits: ArrayLike, relevant: ArrayLike) -> Floats:
    """The share of hits among k; it can't reach 1 for a user with fewer than k relevant items.

    >>> precision_at_k([[True, False], [False, False]], [1, 0]).tolist()
    [0.5, nan]
    """
    found = np.asarray(hits, dtype=np.float64)
    return np.where(np.asarray(relevant) > 0, found.mean(axis=1), np.nan)


def recall_at_k(hits: ArrayLike, relevant: ArrayLike) -> Floats:
    """The share of a user's relevant items that are in the list.

    >>> recall_at_k([[True, False]], [4]).tolist()
    [0.25]
    """
    return _ratio(np.asarray(hits, dtype=np.float64).sum(axis=1), np.asarray(relevant))


def map_at_k(hits: ArrayLike, relevant: ArrayLike) -> Floats:
    """The precision at each hit, summed and divided by min(k, relevant items): average precision of each user.

    >>> map_at_k([[True, False, True]], [2]).round(3).tolist()
    [0.833]
    """
    found, counts = np.asarray(hits, dtype=np.float64), np.asarray(relevant)
    k = found.shape[1]
    precision = np.cumsum(found, axis=1) / np.arange(1, k + 1)
    return _ratio((precision * found).sum(axis=1), np.minimum(counts, k))


def coverage(recommended: Ints, train_counts: ArrayLike) -> float:
    """Catalogue coverage: distinct items recommended to anybody, over distinct items seen in training.

    Above 1 when items that were never trained on are recommended too; NaN without training.

    >>> coverage(np.array([[0, 1], [1, -1]]), train_counts=[9, 3, 1, 0])
    0.6666666666666666
    """
    trained = int((np.asarray(train_counts) > 0).sum())
    return len(np.unique(recommended[recommended >= 0])) / trained if trained else float("nan")


def novelty(recommended: Ints, train_counts: ArrayLike) -> float:
    """How far from common knowledge the recommendations are: mean −log2(share of the training rows), in bits.

    Items never seen in training add 0, as in the reference (they have no share). NaN without recommendations.
    Source: Castells, Vargas, Wang (2011), "Novelty and diversity metrics for recommender systems".

    >>> novelty(np.array([[0, 1]]), train_counts=[2, 1, 1])
    1.5
    """
    counts = np.asarray(train_counts, dtype=np.float64)
    listed = recommended[recommended >= 0]
    if not len(listed):
        return float("nan")
    share = np.where(counts > 0, counts, counts.sum()) / counts.sum()  # never seen: −log2(1) = 0
    return float(-np.log2(share[listed]).mean())


def interval(per_user: ArrayLike, *, seed: int = 0, draws: int = _DRAWS) -> tuple[float, float]:
    """The 95 % interval of the mean over users: users are drawn with replacement (bootstrap percentiles).

    NaN users are left out; NaN, NaN when none is left.

    >>> interval([0.25] * 50)
    (0.25, 0.25)
    """
    values = np.asarray(per_user, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    copies = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=draws)
    low, high = np.quantile(copies @ values / len(values), [0.025, 0.975])
    return float(low), float(high)


def _ratio(part: Floats, whole: ArrayLike) -> Floats:
    total = np.asarray(whole, dtype=np.float64)
    return np.asarray(np.divide(part, total, out=np.full(len(part), np.nan), where=total > 0))
