"""The metrics against their definitions, slow and simple, and their edges."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from whiteboard.errors import NotEnoughDataError
from whiteboard.fraud.metrics import (
    Scored,
    average_precision,
    calibration_error,
    card_precision,
    cost_per_1000,
    dense,
    interval,
    judge,
    mean_over,
    roc_auc,
)


def payments(seed: int = 0, size: int = 3_000, days: int = 5, cards: int = 400, skill: float = 1.0) -> Scored:
    rng = np.random.default_rng(seed)
    card = rng.integers(0, cards, size)
    bad_cards = rng.random(cards) < 0.1
    fraud = (bad_cards[card] & (rng.random(size) < 0.5)).astype(float)
    risk = 1 / (1 + np.exp(-(skill * 2 * fraud + rng.normal(-3, 1, size))))
    return Scored(rng.integers(10, 10 + days, size), dense(card), fraud, rng.uniform(1, 200, size), risk)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.sampled_from([0.0, 1.0, 2.5])), min_size=2, max_size=40))
def test_ranking_metrics_equal_scikit_learns_with_ties_and_weights(rows: list[tuple[bool, int, float]]) -> None:
    fraud, risk, weight = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    defined = (weight * fraud).sum() > 0 and (weight * (1 - fraud)).sum() > 0
    if not defined:
        assert math.isnan(roc_auc(fraud, risk, weight))
        return
    assert roc_auc(fraud, risk, weight) == pytest.approx(roc_auc_score(fraud, risk, sample_weight=weight))
    expected = average_precision_score(fraud, risk, sample_weight=weight)
    assert average_precision(fraud, risk, weight) == pytest.approx(expected)


def test_ranking_metrics_are_undefined_without_frauds_or_payments() -> None:
    assert math.isnan(average_precision([0, 0], [0.1, 0.2]))
    assert math.isnan(roc_auc([1, 1], [0.1, 0.2]))
    assert math.isnan(average_precision([], [])) and math.isnan(roc_auc([], []))


def card_precision_in_words(scored: Scored, k: int) -> float:
    """The Handbook's definition, card by card."""
    found: set[int] = set()
    precisions = []
    for day in sorted(set(scored.day.tolist())):
        highest: dict[int, float] = {}
        compromised: set[int] = set()
        for i in np.flatnonzero(scored.day == day):
            card = int(scored.card[i])
            if card not in found:
                highest[card] = max(highest.get(card, -1.0), float(scored.risk[i]))
                if scored.is_fraud[i]:
                    compromised.add(card)
        top = sorted(highest, key=lambda c: -highest[c])[:k]
        hits = [card for card in top if card in compromised]
        precisions.append(len(hits) / k)
        found.update(hits)
    return sum(precisions) / len(precisions)


@pytest.mark.parametrize("k", [1, 7, 30, 1000])
def test_card_precision_equals_its_definition_in_words(k: int) -> None:
    for seed in range(5):
        scored = payments(seed)
        assert card_precision(scored, k) == pytest.approx(card_precision_in_words(scored, k))


def test_a_card_found_on_one_day_leaves_the_following_days() -> None:
    scored = Scored(
        day=np.array([1, 1, 2, 2]),
        card=np.array([0, 1, 0, 1]),
        is_fraud=np.array([1.0, 0.0, 1.0, 1.0]),
        amount=np.ones(4),
        risk=np.array([0.9, 0.1, 0.8, 0.2]),
    )
    assert card_precision(scored, k=1) == 1.0  # card 1 takes the place of card 0 on the second day
    missed = Scored(scored.day, scored.card, np.array([0.0, 0.0, 1.0, 0.0]), scored.amount, scored.risk)
    assert card_precision(missed, k=1) == 0.5  # an honest card that was checked stays


def test_a_card_drawn_twice_counts_as_two_cards() -> None:
    scored = payments(3, size=400, cards=60)
    copies = np.random.default_rng(1).integers(0, 3, int(scored.card.max()) + 1)
    rows = np.concatenate([np.flatnonzero(copies[scored.card] > copy) for copy in range(2)])
    other = np.concatenate([np.full((copies[scored.card] > copy).sum(), copy) for copy in range(2)])
    doubled = Scored(
        scored.day[rows],
        dense(scored.card[rows] * 2 + other),
        scored.is_fraud[rows],
        scored.amount[rows],
        scored.risk[rows],
    )
    # k above the number of cards: no place is shared between copies, so both ways of counting must agree
    assert card_precision(scored, 200, copies) == pytest.approx(card_precision(doubled, 200))


def test_card_precision_of_equal_risks_does_not_depend_on_the_cards_names() -> None:
    cards = np.arange(1_000)
    fraud = (cards < 100).astype(float)
    for truth in (fraud, fraud[::-1]):
        flat = Scored(np.ones(1_000, dtype=int), cards, truth, np.ones(1_000), np.full(1_000, 0.5))
        assert card_precision(flat, 100) == pytest.approx(0.1, abs=0.07)


def test_calibration_error_is_small_for_true_probabilities_and_large_for_distorted_ones() -> None:
    rng = np.random.default_rng(0)
    probability = rng.beta(0.2, 8, 50_000)
    fraud = (rng.random(50_000) < probability).astype(float)
    assert calibration_error(fraud, probability) < 0.002
    assert calibration_error(fraud, np.sqrt(probability)) > 0.05
    assert calibration_error(fraud, fraud) == 0.0
    assert calibration_error(np.zeros(0), np.zeros(0)) == 0.0


def test_calibration_error_does_not_depend_on_the_order_of_the_payments() -> None:
    scored = payments(5)
    order = np.argsort(scored.is_fraud, kind="stable")
    error = calibration_error(scored.is_fraud, scored.risk)
    assert calibration_error(scored.is_fraud[order], scored.risk[order]) == pytest.approx(error)


def test_a_weighted_payment_counts_as_that_many_in_calibration_and_cost() -> None:
    scored = payments(2, size=300)
    times = np.random.default_rng(0).integers(1, 4, 300)
    repeated = np.repeat(np.arange(300), times)
    assert calibration_error(scored.is_fraud, scored.risk, 1, times.astype(float)) == pytest.approx(
        calibration_error(scored.is_fraud[repeated], scored.risk[repeated], 1)
    )
    assert cost_per_1000(scored.amount, times.astype(float)) == pytest.approx(1000 * scored.amount[repeated].mean())


def test_intervals_hold_the_value_are_seeded_and_as_wide_as_other_cards_would_make_them() -> None:
    scored = payments(0)

    def metric(s: Scored, copies: np.ndarray) -> float:
        return average_precision(s.is_fraud, s.risk, copies[s.card])

    low, high = interval(metric, scored, seed=1)
    assert low < average_precision(scored.is_fraud, scored.risk) < high
    assert (low, high) == interval(metric, scored, seed=1) != interval(metric, scored, seed=2)
    worlds = [payments(seed) for seed in range(60)]
    spread = np.std([average_precision(w.is_fraud, w.risk) for w in worlds])
    assert (high - low) / 3.92 == pytest.approx(spread, rel=0.35)


def test_an_interval_is_undefined_when_the_metric_never_is() -> None:
    honest = payments(0)
    honest = Scored(honest.day, honest.card, np.zeros(len(honest.risk)), honest.amount, honest.risk)
    low, high = interval(lambda s, copies: average_precision(s.is_fraud, s.risk), honest, draws=3)
    assert math.isnan(low) and math.isnan(high)


def test_judging_gives_floor_and_ceiling_beside_every_value() -> None:
    scored = payments(1, size=6_000)
    money = {
        "cost_per_1000": lambda s, copies: cost_per_1000(s.amount * (s.is_fraud != (s.risk > 0.5)), copies[s.card])
    }
    report = judge(scored, k=20, extra=money, draws=30)
    assert set(report) == {"roc_auc", "average_precision", "card_precision_at_20", "cost_per_1000"}
    assert report["roc_auc"]["floor"] == pytest.approx(0.5, abs=0.02) and report["roc_auc"]["ceiling"] == 1.0
    prevalence = scored.is_fraud.mean()
    assert report["average_precision"]["floor"] == pytest.approx(prevalence, rel=0.1)
    assert report["average_precision"]["ceiling"] == 1.0
    perfect = Scored(scored.day, scored.card, scored.is_fraud, scored.amount, scored.is_fraud)
    assert report["card_precision_at_20"]["ceiling"] == pytest.approx(card_precision(perfect, 20))
    assert report["cost_per_1000"]["ceiling"] == 0.0 < report["cost_per_1000"]["value"]
    for parts in report.values():
        assert parts["low"] <= parts["value"] <= parts["high"]


def test_there_is_nothing_to_judge_without_both_frauds_and_honest_payments() -> None:
    scored = payments(0, size=50)
    for truth in (np.zeros(50), np.ones(50)):
        with pytest.raises(NotEnoughDataError, match="of 50 payments"):
            judge(Scored(scored.day, scored.card, truth, scored.amount, scored.risk))


def test_the_mean_over_weeks_has_the_interval_of_the_mean() -> None:
    weeks = [
        {"roc_auc": {"value": value, "low": 0.0, "high": 1.0, "floor": 0.5, "ceiling": 1.0}}
        for value in (0.8, 0.9, 1.0)
    ]
    mean = mean_over(weeks)["roc_auc"]
    half = 4.303 * 0.1 / math.sqrt(3)  # Student's t for 95 % and two degrees of freedom
    assert mean["value"] == pytest.approx(0.9) and mean["sd"] == pytest.approx(0.1)
    assert [mean["low"], mean["high"]] == pytest.approx([0.9 - half, 0.9 + half], abs=1e-3)
    assert mean_over(weeks[:1]) == weeks[0]


def test_dense_codes_have_no_gaps_and_keep_equality() -> None:
    column = pd.Series(["c-9", "c-2", "c-9", "c-4"])
    codes = dense(column)
    assert sorted(set(codes.tolist())) == [0, 1, 2] and codes[0] == codes[2] != codes[1]
