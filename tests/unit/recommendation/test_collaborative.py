"""The two collaborative models against their papers' formulas, and what they recommend on clear-cut tastes."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from whiteboard.errors import NotEnoughDataError
from whiteboard.recommendation.collaborative import (
    LinearAutoencoder,
    WeightedALS,
    blend,
    interaction_matrix,
    positives,
)

HALF = 15  # items of each of two tastes


def two_tastes(users: int, seed: int = 0) -> sparse.csr_matrix:
    """Users who like items of the first half or of the second, hardly ever both."""
    rng = np.random.default_rng(seed)
    taste = np.arange(users) % 2
    near = (np.arange(2 * HALF) // HALF)[None, :] == taste[:, None]
    return sparse.csr_matrix((rng.random((users, 2 * HALF)) < np.where(near, 0.4, 0.01)).astype(np.float32))


@pytest.mark.parametrize("users", [12, 200])  # fewer users than items, and more
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_autoencoder_is_the_closed_form_of_the_paper_on_either_side(users: int, dropout: float) -> None:
    matrix = two_tastes(users)
    dense = matrix.toarray().astype(np.float64)
    gram = dense.T @ dense
    inverse = np.linalg.inv(gram + np.diag(3.0 + dropout / (1 - dropout) * np.diag(gram)))
    expected = np.eye(len(gram)) - inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    fitted = LinearAutoencoder.fit(matrix, l2=3.0, dropout=dropout)
    np.testing.assert_allclose(fitted.weights, expected, atol=1e-4)


def test_an_item_that_nobody_likes_has_no_weights_and_changes_no_others() -> None:
    matrix = two_tastes(200)
    wider = sparse.hstack([matrix[:, :10], sparse.csr_matrix((200, 1), dtype=np.float32), matrix[:, 10:]]).tocsr()
    weights, wide = (LinearAutoencoder.fit(each, l2=3.0, dropout=0.3).weights for each in (matrix, wider))
    assert not wide[10].any()
    assert not wide[:, 10].any()
    kept = np.delete(np.arange(len(wide)), 10)
    np.testing.assert_allclose(wide[np.ix_(kept, kept)], weights, atol=1e-6)


def test_als_solves_the_weighted_least_squares_of_a_user_exactly() -> None:
    matrix = two_tastes(60)
    model = WeightedALS.fit(matrix, factors=4, l2=0.5, alpha=3.0)
    liked = np.flatnonzero(matrix[7].toarray()[0])
    weight = np.where(matrix[7].toarray()[0] > 0, 1 + 3.0, 1.0)
    items = model.factors.astype(np.float64)
    user = np.linalg.solve(
        items.T @ (weight[:, None] * items) + 0.5 * np.eye(4), items.T @ (weight * matrix[7].toarray()[0])
    )
    np.testing.assert_allclose(model.scores(liked), items @ user, atol=1e-4)


@pytest.mark.parametrize("name", ["ease", "als"])
def test_unseen_items_of_the_users_own_taste_come_first(name: str) -> None:
    matrix = two_tastes(300)
    ease = LinearAutoencoder.fit(matrix, l2=100.0)
    model = ease if name == "ease" else WeightedALS.fit(matrix, factors=2, l2=1.0, alpha=1.0)  # two tastes, two factors
    scores = model.scores([20, 25])
    scores[[20, 25]] = -np.inf
    assert (np.argsort(-scores)[:10] >= HALF).all()


@pytest.mark.parametrize("name", ["ease", "als"])
def test_a_row_of_the_matrix_and_its_list_of_items_get_the_same_scores(name: str) -> None:
    matrix = two_tastes(80)
    model = LinearAutoencoder.fit(matrix, l2=5.0) if name == "ease" else WeightedALS.fit(matrix, factors=4)
    everyone = model.scores_of(matrix)
    np.testing.assert_allclose(model.scores(matrix[3].indices), everyone[3], atol=1e-5)


def test_who_likes_nothing_yet_has_no_scores() -> None:
    matrix = two_tastes(50)
    assert not LinearAutoencoder.fit(matrix, l2=5.0).scores([]).any()
    assert not WeightedALS.fit(matrix, factors=4).scores([]).any()


def test_the_same_seed_gives_the_same_factors() -> None:
    first, second = (WeightedALS.fit(two_tastes(50), factors=4, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.factors, second.factors)


def test_an_empty_matrix_is_refused_with_the_cure() -> None:
    nothing = sparse.csr_matrix((3, 4), dtype=np.float32)
    with pytest.raises(NotEnoughDataError, match="bring clicks"):
        LinearAutoencoder.fit(nothing, l2=1.0)
    with pytest.raises(NotEnoughDataError, match="bring clicks"):
        WeightedALS.fit(nothing)


def test_a_blend_gives_both_models_the_same_scale() -> None:
    large, small = np.array([100.0, 0.0, 0.0], dtype=np.float32), np.array([0.0, 0.0, 0.01], dtype=np.float32)
    mixed = blend(large, small, 0.5)
    assert mixed[0] == pytest.approx(mixed[2])
    assert blend(large, small, 0.6).argmax() == 2


def test_views_are_no_likes_unless_the_data_has_nothing_else() -> None:
    frame = pd.DataFrame({"event_type": ["view", "click", "rating", "purchase"]})
    assert positives(frame)["event_type"].tolist() == ["click", "rating", "purchase"]
    assert len(positives(frame[:1])) == 1


def test_a_pair_counts_once_however_often_it_occurs() -> None:
    matrix = interaction_matrix(np.array([0, 0, 0]), np.array([1, 1, 0]), (1, 2))
    assert matrix.toarray().tolist() == [[1.0, 1.0]]
