"""How a trained model behaves: what must not matter does not, what must matter does, and it beats what is simple.

Trained once on a small world, on point-in-time features, exactly as the pipeline does it.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pipelines.fraud.dataset import Dataset, labelled_rows, ordered
from pipelines.fraud.evaluate import average_precision
from pipelines.fraud.train import TrainConfig, Trained, fit
from whiteboard.fraud.features import FEATURES, point_in_time_sql
from whiteboard.fraud.model import RISING
from whiteboard.fraud.world import WorldConfig, simulate
from whiteboard.lake import connect

Floats = NDArray[np.float64]

WORLD = WorldConfig(customers=250, terminals=500, start=date(2026, 1, 5), days=56, seed=3, label_delay_days=3.0)


def dataset(transactions: pd.DataFrame) -> Dataset:
    """The point-in-time set of a world in which every label is known."""
    labels = transactions.drop(columns="created_timestamp").assign(
        transaction_timestamp=transactions["event_timestamp"],
        event_timestamp=transactions["label_timestamp"],
        created_timestamp=transactions["label_timestamp"],
    )
    now = datetime(2027, 1, 1, tzinfo=UTC)
    with connect() as connection:
        connection.register("made", transactions.drop(columns="is_fraud"))
        connection.register("known", labels)
        decisions = "(SELECT '' transaction_id, '' decision, 1.0 propensity, now() created_timestamp WHERE false)"
        rows, counts = labelled_rows(connection, "made", "known", decisions, now)
        features = connection.sql(point_in_time_sql("training_rows", "made", "known", "created")).df()
    joined = features.merge(rows[["transaction_id", "is_fraud", "weight"]], on="transaction_id")
    return Dataset(ordered(joined), now, counts)


@dataclass(frozen=True)
class World:
    transactions: pd.DataFrame
    dataset: Dataset
    trained: Trained

    @property
    def test(self) -> Dataset:
        return self.trained.slices.test

    def scores(self, frame: pd.DataFrame) -> Floats:
        model = self.trained.model
        return model.predict(frame[list(model.features)].to_numpy(dtype=np.float64))


@pytest.fixture(scope="module")
def world() -> World:
    transactions = simulate(WORLD).transactions
    data = dataset(transactions)
    return World(transactions, data, fit(data, TrainConfig(tuning_s=0, rounds=200, slice_frauds=50)))


def with_amount(frame: pd.DataFrame, factor: float) -> pd.DataFrame:
    """The same payments with `factor` times the amount, and every feature that follows from it."""
    mean = frame["customer_mean_30d"]
    amount, to_mean = frame["amount"] * factor, frame["amount_to_mean"] * factor
    zscore = (amount - mean) / (frame["customer_std_30d"] + 1)
    return frame.assign(amount=amount, amount_to_mean=to_mean, amount_zscore=zscore)


def test_a_bigger_amount_never_lowers_the_risk(world: World) -> None:
    frame = world.test.frame
    before = world.scores(frame)
    for factor in (1.01, 1.5, 3.0, 20.0):
        after = world.scores(with_amount(frame, factor))
        assert (after >= before).all()
        before = after


def test_a_bigger_amount_at_a_compromised_terminal_never_lowers_the_risk(world: World) -> None:
    compromised = world.dataset.frame[world.dataset.frame["terminal_fraud_count_28d"] > 0]
    assert len(compromised) > 50
    assert (world.scores(with_amount(compromised, 5.0)) >= world.scores(compromised)).all()


@pytest.mark.parametrize("feature", sorted(RISING))
def test_more_of_a_warning_sign_never_lowers_the_risk(world: World, feature: str) -> None:
    frame = world.test.frame[world.test.frame[feature].notna()]
    raised = frame.assign(**{feature: frame[feature] + frame[feature].abs() + 1})
    assert (world.scores(raised) >= world.scores(frame)).all()


def test_renaming_cards_and_terminals_changes_nothing(world: World) -> None:
    renamed = world.transactions.assign(
        customer_id="renamed-" + world.transactions["customer_id"].str[::-1],
        terminal_id="renamed-" + world.transactions["terminal_id"].str[::-1],
    )
    assert np.array_equal(world.scores(dataset(renamed).frame), world.scores(world.dataset.frame))


def test_the_company_of_other_payments_changes_nothing(world: World) -> None:
    shuffled = world.test.frame.sample(frac=1, random_state=0)
    alone = pd.Series(world.scores(shuffled), index=shuffled.index).sort_index()
    assert np.array_equal(alone.to_numpy(), world.scores(world.test.frame))


def test_what_happened_later_changes_nothing(world: World) -> None:
    """Point in time: without the last two weeks of the world the earlier payments score the same."""
    cut = world.transactions["event_timestamp"].max() - pd.Timedelta(days=14)
    earlier = dataset(world.transactions[world.transactions["event_timestamp"] < cut]).frame
    whole = world.dataset.frame
    same = whole[whole["transaction_id"].isin(earlier["transaction_id"])]
    assert np.array_equal(world.scores(same), world.scores(earlier))


def test_an_ordinary_payment_is_approved_and_a_blatant_one_is_not(world: World) -> None:
    at = world.trained.model.thresholds
    frame = world.test.frame
    honest = frame[(frame["is_fraud"] == 0) & (frame["amount_to_mean"].between(0.3, 1.7))]
    assert (world.scores(honest) < at.review).mean() > 0.95
    blatant = frame.assign(amount=900.0, amount_to_mean=20.0, amount_zscore=25.0)
    assert (world.scores(blatant) >= at.review).mean() > 0.95


def test_it_ranks_far_better_than_simple_rules(world: World) -> None:
    rows, frame = world.test, world.test.frame
    learnt = average_precision(rows, world.scores(frame))
    rules = {
        "amount": frame["amount"],
        "amount above the usual": frame["amount_to_mean"].fillna(0),
        "known frauds at the terminal": frame["terminal_fraud_count_28d"],
        "nothing": frame["amount"] * 0,
    }
    best = max(average_precision(rows, rule.to_numpy()) for rule in rules.values())
    assert learnt > best + 0.15


def test_probabilities_mean_what_they_say(world: World) -> None:
    expected, seen = world.scores(world.test.frame).sum(), world.test.is_fraud.sum()
    assert expected == pytest.approx(seen, rel=0.5)
    assert world.trained.evaluation.metrics["calibration_error"]["value"] < 0.01


def test_every_metric_lies_between_its_floor_and_its_ceiling(world: World) -> None:
    for name, metric in world.trained.evaluation.metrics.items():
        low, high = sorted((metric["floor"], metric["ceiling"]))
        assert low <= metric["value"] <= high, name
        assert metric["low"] <= metric["value"] <= metric["high"] or name == "card_precision_at_100", name


def test_the_ablation_names_every_combination_and_keeps_one(world: World) -> None:
    ablation = world.trained.ablation
    assert {c.members for c in ablation} == {
        "trees", "trees + linear", "trees + anomaly", "trees + linear + anomaly"
    }  # fmt: skip
    assert sum(c.kept for c in ablation) == 1


def test_each_slice_is_later_than_what_came_before(world: World) -> None:
    slices = world.trained.slices
    ends = [(part.frame["event_timestamp"].min(), part.frame["event_timestamp"].max())
            for part in (slices.fit, slices.stop, slices.test)]  # fmt: skip
    assert ends[0][1] < ends[1][0] <= ends[1][1] < ends[2][0]
    assert len(slices.learn) == len(slices.fit) + len(slices.stop)
    assert min(part.is_fraud.sum() for part in (slices.stop, slices.test)) >= 20


def test_training_again_gives_the_same_model(world: World) -> None:
    again = fit(world.dataset, TrainConfig(tuning_s=0, rounds=200, slice_frauds=50))
    assert np.array_equal(again.model.predict(world.test.matrix()), world.scores(world.test.frame))
    assert again.model.thresholds == world.trained.model.thresholds


def test_features_are_those_that_are_served(world: World) -> None:
    assert world.trained.model.features == FEATURES
