"""Ranking metrics against their definitions, spelled out one user at a time."""

import math

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from whiteboard.recommendation.metrics import (
    NONE,
    coverage,
    hits_at_k,
    interval,
    map_at_k,
    ndcg_at_k,
    novelty,
    precision_at_k,
    recall_at_k,
    top_k,
)

K = 5


def in_words(listed: list[int], relevant: set[int]) -> dict[str, float]:
    """The four metrics of one user, by their textbook sums."""
    ranks = [rank for rank, item in enumerate(listed, start=1) if item in relevant]
    best = min(K, len(relevant))
    ideal = sum(1 / math.log2(1 + rank) for rank in range(1, best + 1))
    return {
        "ndcg": sum(1 / math.log2(1 + rank) for rank in ranks) / ideal,
        "precision": len(ranks) / K,
        "recall": len(ranks) / len(relevant),
        "map": sum(found / rank for found, rank in enumerate(ranks, start=1)) / best,
    }


def test_every_ranking_metric_equals_its_definition_on_random_lists() -> None:
    rng = np.random.default_rng(0)
    relevant = rng.random((60, 12)) < 0.4
    relevant[:, 0] = True  # everyone has something
    listed = np.argsort(rng.random((60, 12)), axis=1)[:, :K]
    hits, counts = hits_at_k(listed, csr_matrix(relevant)), relevant.sum(axis=1)
    metrics = {"ndcg": ndcg_at_k, "precision": precision_at_k, "recall": recall_at_k, "map": map_at_k}
    expected = [
        in_words(row.tolist(), set(np.flatnonzero(wanted))) for row, wanted in zip(listed, relevant, strict=True)
    ]
    for name, metric in metrics.items():
        np.testing.assert_allclose(metric(hits, counts), [user[name] for user in expected], err_msg=name)


def test_a_user_without_relevant_items_has_no_part_in_any_mean() -> None:
    hits, counts = np.array([[True, False], [False, False]]), np.array([1, 0])
    for metric in (ndcg_at_k, precision_at_k, recall_at_k, map_at_k):
        assert np.isnan(metric(hits, counts)[1])
    assert interval(ndcg_at_k(hits, counts)) == (1.0, 1.0)


def test_a_perfect_list_has_ndcg_one_even_when_fewer_than_k_are_relevant() -> None:
    assert ndcg_at_k([[True, False, False]], [1]) == pytest.approx([1.0])
    assert map_at_k([[True, False, False]], [1]) == pytest.approx([1.0])
    assert precision_at_k([[True, False, False]], [1]) == pytest.approx([1 / 3])


def test_ties_are_settled_by_the_lower_code_wherever_they_fall() -> None:
    scores = np.array([[1.0, 3.0, 3.0, 3.0, 2.0]])
    assert top_k(scores, 2).tolist() == [[1, 2]]
    assert top_k(np.zeros((1, 4)), 3).tolist() == [[0, 1, 2]]


def test_what_may_not_be_listed_leaves_its_place_empty() -> None:
    listed = top_k(np.array([[-np.inf, 0.5, -np.inf]]), 2)
    assert listed.tolist() == [[1, NONE]]
    assert hits_at_k(listed, csr_matrix([[1, 1, 1]])).tolist() == [[True, False]]
    assert top_k(np.array([[0.5, 0.1]]), 3).tolist() == [[0, 1, NONE]]


def test_coverage_counts_distinct_items_over_those_seen_in_training() -> None:
    listed = np.array([[0, 1, NONE], [1, 2, 0]])
    assert coverage(listed, [5, 5, 5, 5, 0]) == 0.75


def test_novelty_is_the_mean_surprise_of_an_item_in_bits() -> None:
    counts = np.array([4, 2, 2])
    assert novelty(np.array([[0, 1], [0, 2]]), counts) == pytest.approx((1 + 2 + 1 + 2) / 4)
    assert novelty(np.array([[0, 3]]), np.array([4, 0, 4, 0])) == pytest.approx(0.5)  # item 3: never seen, adds 0


def test_the_interval_holds_the_mean_and_narrows_with_more_users() -> None:
    values = np.random.default_rng(1).random(2_000)
    few, many = interval(values[:50]), interval(values)
    assert few[0] < values[:50].mean() < few[1]
    assert many[0] < values.mean() < many[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 3
    assert interval(values) == many
