"""What a decision costs, where the thresholds lie, and which declines are waived."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whiteboard.fraud.decision import (
    CostTable,
    Outcome,
    Thresholds,
    actions,
    decide,
    fit_thresholds,
    realised_cost,
)

COSTS = CostTable(missed_share=1.0, chargeback_fee=15.0, review_cost=3.0, friction=25.0)
AT = Thresholds(review=0.1, decline=0.8)


@pytest.mark.parametrize(
    ("probability", "action"),
    [(0.0, "approve"), (0.0999, "approve"), (0.1, "review"), (0.7999, "review"), (0.8, "decline"), (1.0, "decline")],
)
def test_a_threshold_belongs_to_the_harsher_action(probability: float, action: str) -> None:
    assert decide(probability, "t-1", AT) == Outcome(action, 1.0)  # type: ignore[arg-type]
    assert actions(np.array([probability]), AT).tolist() == [action]


def test_the_known_share_of_declines_is_waived_into_review_with_its_propensity() -> None:
    outcomes = [decide(0.9, f"t-{i}", AT, exploration=0.05) for i in range(20_000)]
    waived = [o for o in outcomes if o.decision == "review"]
    assert len(waived) / len(outcomes) == pytest.approx(0.05, abs=0.005)
    assert {o.propensity for o in waived} == {0.05}
    assert {o.propensity for o in outcomes if o.decision == "decline"} == {0.95}


def test_what_is_not_declined_is_not_explored() -> None:
    assert {decide(p, f"t-{i}", AT, exploration=1.0).propensity for i in range(50) for p in (0.0, 0.5)} == {1.0}


@given(st.text(min_size=1, max_size=64), st.floats(0, 1), st.floats(0, 1))
def test_a_retried_transaction_meets_the_same_fate(transaction_id: str, probability: float, share: float) -> None:
    assert decide(probability, transaction_id, AT, share) == decide(probability, transaction_id, AT, share)


def test_costs_follow_the_table() -> None:
    fraud, honest = np.array([1.0, 1.0, 1.0]), np.zeros(3)
    taken, amount = np.array(["approve", "review", "decline"]), np.array([100.0, 100.0, 100.0])
    assert realised_cost(taken, fraud, amount, COSTS).tolist() == [115.0, 3.0, 0.0]
    assert realised_cost(taken, honest, amount, COSTS).tolist() == [0.0, 3.0, 25.0]


def expected_cost(p: np.ndarray, amount: np.ndarray, at: Thresholds) -> float:
    by_action = {
        "approve": COSTS.approve(p, amount),
        "review": np.full(len(p), COSTS.review_cost),
        "decline": COSTS.decline(p),
    }
    return float(sum(by_action[a][i] for i, a in enumerate(actions(p, at))))


@pytest.mark.parametrize("seed", range(5))
def test_no_other_thresholds_within_capacity_cost_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, amount = np.round(rng.beta(0.3, 3, 60), 2), rng.uniform(5, 300, 60)  # rounded: with ties
    chosen = fit_thresholds(p, amount, COSTS, reviews_per_day=4, days=3)
    candidates = [*np.unique(p), 2.0]
    best = min(
        expected_cost(p, amount, Thresholds(review, decline))
        for review, decline in product(candidates, candidates)
        if review <= decline and (actions(p, Thresholds(review, decline)) == "review").sum() <= 12
    )
    assert (actions(p, chosen) == "review").sum() <= 12
    assert expected_cost(p, amount, chosen) == pytest.approx(best)


def test_without_analysts_nothing_is_reviewed() -> None:
    p = np.linspace(0.01, 0.99, 99)
    chosen = fit_thresholds(p, np.full(99, 50.0), COSTS, reviews_per_day=0, days=1)
    assert chosen.review == chosen.decline
    assert "review" not in actions(p, chosen)


def test_a_weighted_payment_counts_as_so_many() -> None:
    p, amount = np.array([0.9, 0.5, 0.3, 0.01]), np.full(4, 100.0)
    repeated = fit_thresholds(np.repeat(p, [1, 3, 2, 5]), np.full(11, 100.0), COSTS, reviews_per_day=6, days=1)
    weighted = fit_thresholds(p, amount, COSTS, reviews_per_day=6, days=1, weight=np.array([1.0, 3.0, 2.0, 5.0]))
    assert actions(p, weighted).tolist() == actions(p, repeated).tolist()


def test_safe_payments_only_need_no_action() -> None:
    p = np.full(100, 0.001)
    chosen = fit_thresholds(p, np.full(100, 20.0), COSTS, reviews_per_day=10, days=1)
    assert set(actions(p, chosen)) == {"approve"}
