"""Collaborative filtering: who likes these items likes those. Two linear models and their blend, in numpy.

    model = LinearAutoencoder.fit(matrix, l2=200, dropout=0.5)    # matrix: users × items, 1 where liked
    model.scores([17, 4])                                       # (items,) float32, higher is better

Neither keeps anything of a user: a request brings the user's recent items, so a user never seen before is served like
any other (fold-in). They are fitted offline and read by candidates.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack

from whiteboard.errors import NotEnoughDataError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

POSITIVE = ("click", "purchase", "rating")  # a view says that the item was examined, not that it was liked
_SEED_SCALE = 0.01  # of the random start of ALS: small, so that the first half step decides


def positives(interactions: pd.DataFrame) -> pd.DataFrame:
    """The rows that say "liked": clicks, purchases and ratings; the views, in data that holds nothing else."""
    liked = interactions["event_type"].isin(POSITIVE)
    return interactions[liked] if liked.any() else interactions


def interaction_matrix(users: NDArray[Any], items: NDArray[Any], shape: tuple[int, int]) -> sparse.csr_matrix:
    """The sparse users × items matrix with a 1 (float32) for every pair of codes, however often it occurs.

    >>> interaction_matrix(np.array([0, 0, 1]), np.array([2, 2, 0]), (2, 3)).toarray().tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    matrix = sparse.csr_matrix((np.ones(len(users), dtype=np.float32), (users, items)), shape=shape)
    matrix.data[:] = 1
    return matrix


@dataclass(frozen=True)
class LinearAutoencoder:
    """EASE and EDLAE: each item's score is a weighted sum over the liked items, no item speaking for itself.

    `weights` is (items, items) float32, its diagonal 0. With `dropout` = 0 it is EASE (Steck 2019, "Embarrassingly
    shallow autoencoders for sparse data"), above 0 EDLAE (Steck 2020, "Autoencoders that don't overfit towards the
    identity"), whose dropout becomes a penalty of dropout / (1 − dropout) times an item's number of likes.
    """

    weights: Floats

    @classmethod
    def fit(cls, matrix: sparse.csr_matrix, *, l2: float, dropout: float = 0.0) -> Self:
        """The closed-form solution; seconds for 10,000 items. Raises NotEnoughDataError for an empty matrix.

        The inverse is taken on the smaller side: of users × users (Woodbury's identity) when there are fewer users.
        """
        if not matrix.nnz:
            raise NotEnoughDataError("0 interactions to fit the linear autoencoder: bring clicks, purchases or ratings")
        likes = np.asarray(matrix.sum(axis=0), dtype=np.float64).ravel()
        liked = np.flatnonzero(likes)  # an item that nobody likes has no weights
        weights = _weights(sparse.csr_matrix(matrix[:, liked]), l2 + dropout / (1 - dropout) * likes[liked])
        if len(liked) == len(likes):
            return cls(weights)
        whole = np.zeros((len(likes), len(likes)), dtype=np.float32)
        whole[np.ix_(liked, liked)] = weights
        return cls(whole)

    def scores(self, liked: Sequence[int] | Ints) -> Floats:
        """The score of every item for who liked these; (items,), zeros when none is given."""
        return np.asarray(self.weights[np.asarray(liked, dtype=np.int64)].sum(axis=0))

    def scores_of(self, matrix: sparse.csr_matrix) -> Floats:
        """The scores of every item for each row of a users × items matrix; (users, items)."""
        return np.asarray(matrix @ self.weights)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What to save."""
        return {"weights": self.weights}


def _weights(matrix: sparse.csr_matrix, penalty: NDArray[np.float64]) -> Floats:
    """−P / diag(P), column by column, with a diagonal of 0; P is the inverse of the penalised item × item counts."""
    users, items = matrix.shape
    inverted = _inverse_by_users if users < items else _inverse_by_items
    inverse = inverted(matrix, penalty.astype(np.float32))
    inverse /= -np.diag(inverse).copy()
    np.fill_diagonal(inverse, 0)
    return inverse


def _inverse_by_items(matrix: sparse.csr_matrix, penalty: Floats) -> Floats:
    gram = (matrix.T @ matrix).toarray()
    gram[np.diag_indices_from(gram)] += penalty
    root, _ = lapack.spotrf(gram.T, lower=1, overwrite_a=1)  # Cholesky: half the work of a general inverse
    inverse, _ = lapack.spotri(root, lower=1, overwrite_c=1)
    lower = np.tril(inverse)
    return np.asarray(lower + np.tril(lower, -1).T, dtype=np.float32)


def _inverse_by_users(matrix: sparse.csr_matrix, penalty: Floats) -> Floats:
    scaled = matrix.toarray() / penalty  # (users, items)
    core = np.eye(len(scaled), dtype=np.float32) + scaled @ matrix.T.toarray()
    inverse = -(scaled.T @ np.linalg.solve(core, scaled))
    inverse[np.diag_indices_from(inverse)] += 1 / penalty
    return np.asarray(inverse, dtype=np.float32)


@dataclass(frozen=True)
class WeightedALS:
    """Implicit-feedback matrix factorisation: liked pairs weigh 1 + alpha, all others 1.

    `factors` is (items, factors) float32, `gram` = factorsᵀ factors + l2·I. Source: Hu, Koren, Volinsky (2008),
    "Collaborative filtering for implicit feedback datasets".
    """

    factors: Floats
    gram: Floats
    alpha: float

    @classmethod
    def fit(
        cls,
        matrix: sparse.csr_matrix,
        *,
        factors: int = 48,
        l2: float = 30.0,
        alpha: float = 3.0,
        sweeps: int = 8,
        seed: int = 0,
    ) -> Self:
        """Alternates `sweeps` times between users and items. Raises NotEnoughDataError for an empty matrix."""
        if not matrix.nnz:
            raise NotEnoughDataError("0 interactions to fit ALS: bring clicks, purchases or ratings")
        by_item = matrix.T.tocsr()
        start = np.random.default_rng(seed).normal(0, _SEED_SCALE, (matrix.shape[1], factors))
        items = start.astype(np.float32)
        for _ in range(sweeps):
            users = _half_step(matrix, items, l2, alpha)
            items = _half_step(by_item, users, l2, alpha)
        return cls(items, _gram(items, l2), alpha)

    def scores(self, liked: Sequence[int] | Ints) -> Floats:
        """The score of every item for who liked these; (items,), zeros when none is given."""
        rows = self.factors[np.asarray(liked, dtype=np.int64)]
        return np.asarray(self.factors @ _solve(self.gram, rows, self.alpha))

    def scores_of(self, matrix: sparse.csr_matrix) -> Floats:
        """The scores of every item for each row of a users × items matrix; (users, items)."""
        return np.asarray(_fold_in(matrix, self.factors, self.gram, self.alpha) @ self.factors.T)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What to save."""
        return {"factors": self.factors, "gram": self.gram, "alpha": np.array(self.alpha)}


def _gram(factors: Floats, l2: float) -> Floats:
    return np.asarray(factors.T @ factors + l2 * np.eye(factors.shape[1], dtype=np.float32), dtype=np.float32)


def _solve(gram: Floats, rows: Floats, alpha: float) -> Floats:
    return np.asarray(np.linalg.solve(gram + alpha * rows.T @ rows, (1 + alpha) * rows.sum(axis=0)), dtype=np.float32)


def _half_step(matrix: sparse.csr_matrix, other: Floats, l2: float, alpha: float) -> Floats:
    return _fold_in(matrix, other, _gram(other, l2), alpha)


def _fold_in(matrix: sparse.csr_matrix, other: Floats, gram: Floats, alpha: float) -> Floats:
    solved = np.zeros((matrix.shape[0], other.shape[1]), dtype=np.float32)
    starts = matrix.indptr
    for row in np.flatnonzero(np.diff(starts)):
        solved[row] = _solve(gram, other[matrix.indices[starts[row] : starts[row + 1]]], alpha)
    return solved


def standardised(scores: Floats) -> Floats:
    """Each row with mean 0 and standard deviation 1, so that sources of unlike scales can be added; zeros if constant.

    >>> standardised(np.array([[1, 3], [5, 5]], dtype=np.float32)).tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    """
    rows = np.atleast_2d(scores)
    centred = rows - rows.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.square(centred).mean(axis=1, keepdims=True))
    return np.asarray(centred / np.where(spread > 0, spread, 1), dtype=np.float32).reshape(scores.shape)


def blend(autoencoder: Floats, als: Floats, als_share: float) -> Floats:
    """The weighted mean of both models' standardised scores, of one user (items,) or many (users, items)."""
    return np.asarray((1 - als_share) * standardised(autoencoder) + als_share * standardised(als), dtype=np.float32)
