"""The simulated world: the Handbook's numbers, its fraud scenarios, and every switch."""

from datetime import date
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from whiteboard.fraud.events import Label, Transaction
from whiteboard.fraud.world import World, WorldConfig, labels_for, malformed_payloads, simulate

PUBLISHED = {"transactions": 1_754_155, "frauds": 14_681}  # Fraud Detection Handbook, chapter 3
SMALL = WorldConfig(customers=300, terminals=600, days=60, seed=5)
DAY = pd.Timedelta(days=1)


@pytest.fixture(scope="module")
def world() -> World:
    return simulate(SMALL)


@pytest.fixture(scope="module")
def shifted() -> World:
    return simulate(WorldConfig(customers=300, terminals=600, days=60, seed=5, shift_day=40))


def joined(world: World) -> pd.DataFrame:
    frame = world.transactions.merge(world.truth, on="transaction_id", validate="one_to_one")
    start = pd.Timestamp(world.config.start, tz="UTC")
    return frame.assign(day=(frame["event_timestamp"] - start) // DAY)


def standard_error(values: "pd.Series[int]") -> float:
    """Of a sum of independent draws, from the draws themselves."""
    return float(np.sqrt(len(values) * values.var(ddof=1)))


def test_counts_and_fraud_rate_of_the_full_world_are_the_published_ones_within_sampling_error() -> None:
    world = simulate(WorldConfig(seed=1))
    frame = world.transactions[["customer_id", "terminal_id"]].join(world.truth[["scenario", "compromised_since"]])
    frauds = frame[frame["scenario"] > 0]
    error = standard_error(frame["customer_id"].value_counts())  # cards are drawn independently
    # The draws behind the frauds: a leaked terminal, a day's leaked cards, a card with its large amounts.
    by = {2: ["terminal_id", "compromised_since"], 3: ["compromised_since"]}
    draws = [frauds[frauds["scenario"] == scenario].groupby(keys).size() for scenario, keys in by.items()]
    draws.append(frauds[frauds["scenario"] == 1]["customer_id"].value_counts())
    fraud_error = float(np.sqrt(sum(standard_error(counts) ** 2 for counts in draws)))
    rate, published_rate = len(frauds) / len(frame), PUBLISHED["frauds"] / PUBLISHED["transactions"]

    # Both worlds, the book's and this one, are draws: their difference has √2 times the error of one.
    limit = 3 * 2**0.5
    assert abs(len(frame) - PUBLISHED["transactions"]) < limit * error
    assert abs(len(frauds) - PUBLISHED["frauds"]) < limit * fraud_error
    assert abs(rate - published_rate) < limit * fraud_error / len(frame)
    assert error < 0.01 * len(frame) and fraud_error < 0.025 * len(frauds)  # small enough for this to mean something


def test_the_frame_keeps_the_contract(world: World) -> None:
    frame = world.transactions
    times = ["event_timestamp", "label_timestamp", "created_timestamp"]
    assert list(frame.columns) == [
        "transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount", "is_fraud",
        "label_timestamp", "created_timestamp",
    ]  # fmt: skip
    assert all(str(frame[name].dtype) == "datetime64[us, UTC]" for name in times)
    assert frame["transaction_id"].is_unique and frame["event_timestamp"].is_monotonic_increasing
    assert all(type(value) is str for name in ("transaction_id", "customer_id", "terminal_id") for value in frame[name])
    first, end = (pd.Timestamp(day, tz="UTC") for day in ("2018-04-01", "2018-05-31"))
    assert first < frame["event_timestamp"].min() and frame["event_timestamp"].max() < end
    assert (frame["amount"] >= 0).all() and np.allclose(frame["amount"] * 100, (frame["amount"] * 100).round())


def test_the_same_seed_gives_the_same_world_and_another_seed_another(world: World) -> None:
    again, other = simulate(SMALL), simulate(WorldConfig(customers=300, terminals=600, days=60, seed=6))
    pd.testing.assert_frame_equal(world.transactions, again.transactions)
    pd.testing.assert_frame_equal(world.truth, again.truth)
    assert len(other.transactions) != len(world.transactions)


def test_the_truth_is_saved_apart_from_what_the_system_may_see(world: World, tmp_path: Path) -> None:
    path = world.save(tmp_path / "w")
    pd.testing.assert_frame_equal(pd.read_parquet(path), world.transactions)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "w" / "truth.parquet"), world.truth)
    assert set(world.truth.columns) & set(world.transactions.columns) == {"transaction_id"}


def test_a_payment_is_a_fraud_exactly_when_a_scenario_says_so(world: World) -> None:
    frame = joined(world)
    assert (frame["is_fraud"] == (frame["scenario"] > 0)).all()
    assert set(frame["scenario"]) == {0, 1, 2, 3}
    assert not (frame["amount"] > 220)[frame["scenario"] == 0].any()
    assert (frame["amount"] > 220)[frame["scenario"] == 1].all()
    assert frame["compromised_since"].isna().equals(frame["scenario"] < 2)


def test_every_payment_at_a_compromised_terminal_is_a_fraud_for_28_days(world: World) -> None:
    frame = joined(world)
    leaks = frame[frame["scenario"] == 2].groupby("terminal_id")["compromised_since"].min()
    assert len(leaks) > 3
    longest = 0
    for terminal, since in leaks.items():
        there = frame[(frame["terminal_id"] == terminal) & (frame["event_timestamp"] >= since)]
        assert there["is_fraud"][there["event_timestamp"] < since + 28 * DAY].all()
        longest = max(longest, (there["day"] - there["day"].min())[there["scenario"] == 2].max())
    assert 14 < longest < 28 + 28


def test_a_third_of_a_leaked_cards_payments_is_multiplied_by_five(world: World) -> None:
    frame = joined(world)
    leaked = frame[frame["scenario"] == 3]
    usual = frame[frame["scenario"] == 0].groupby("customer_id")["amount"].mean()
    assert len(leaked) > 20
    assert 4 < (leaked["amount"] / leaked["customer_id"].map(usual)).mean() < 6
    late = leaked["event_timestamp"] - leaked["compromised_since"]
    assert (late >= 0 * DAY).all() and (late < 14 * DAY).all()
    leaks = leaked[["customer_id", "compromised_since"]].drop_duplicates()
    made = frame[["customer_id", "event_timestamp"]].merge(leaks, on="customer_id")
    since = made["event_timestamp"] - made["compromised_since"]
    assert 0.25 < len(leaked) / ((since >= 0 * DAY) & (since < 14 * DAY)).sum() <= 0.4


def test_customers_pay_only_at_terminals_within_their_reach(world: World) -> None:
    places = np.random.default_rng([SMALL.seed, 0]).uniform(0, SMALL.side, (SMALL.customers, 2))
    shops = np.random.default_rng([SMALL.seed, 1]).uniform(0, SMALL.side, (SMALL.terminals, 2))
    customer, terminal = (
        world.transactions[name].str.slice(2).astype(int).to_numpy() for name in ("customer_id", "terminal_id")
    )
    assert np.linalg.norm(places[customer] - shops[terminal], axis=1).max() <= SMALL.radius


def test_a_small_world_looks_like_the_large_one_from_inside() -> None:
    frame = joined(simulate(WorldConfig(customers=1000, terminals=2000, days=100, seed=2)))
    assert frame["is_fraud"].mean() == pytest.approx(0.0084, rel=0.25)
    assert len(frame) / 1000 / 100 == pytest.approx(2 * 0.969, rel=0.05)
    assert frame.groupby("terminal_id").size().mean() / 100 == pytest.approx(0.97, rel=0.08)


def test_a_customer_without_a_terminal_in_reach_makes_no_payment() -> None:
    lonely = simulate(WorldConfig(customers=200, terminals=200, days=5, seed=1, radius=0.5))
    payers = lonely.transactions["customer_id"].nunique()
    assert 0 < payers < 150
    assert simulate(WorldConfig(customers=5, terminals=5, days=5, radius=0.0)).transactions.empty


def test_labels_come_after_the_delay_exactly_or_spread(world: World) -> None:
    delay = world.transactions["label_timestamp"] - world.transactions["event_timestamp"]
    assert (delay == 7 * DAY).all()
    spread = simulate(WorldConfig(customers=300, terminals=600, days=60, label_delay_days=3, label_delay_spread_days=1))
    spans = spread.transactions["label_timestamp"] - spread.transactions["event_timestamp"]
    days = spans.dt.total_seconds() / 86_400
    assert (days > 0).all() and days.mean() == pytest.approx(3, abs=0.05) and days.std() == pytest.approx(1, abs=0.05)


def test_late_events_become_known_after_they_happened_and_out_of_order() -> None:
    world = simulate(WorldConfig(customers=300, terminals=600, days=60, seed=5, late_share=0.1, late_mean_s=1800))
    late = world.transactions["created_timestamp"] - world.transactions["event_timestamp"]
    assert (late >= 0 * DAY).all() and (late > 0 * DAY).mean() == pytest.approx(0.1, abs=0.01)
    assert late[late > 0 * DAY].dt.total_seconds().mean() == pytest.approx(1800, rel=0.1)
    assert (world.transactions["created_timestamp"].dt.microsecond % 1000 == 0).all()  # what the event log can keep
    assert not world.transactions["created_timestamp"].is_monotonic_increasing


def test_hot_keys_draw_their_share_of_the_traffic() -> None:
    world = simulate(WorldConfig(customers=300, terminals=600, days=60, seed=5, hot_share=0.4, hot_keys=2))
    for key in ("customer_id", "terminal_id"):
        shares = world.transactions[key].value_counts(normalize=True)
        assert shares.iloc[:2].sum() == pytest.approx(0.4, abs=0.03) and shares.iloc[2] < 0.03


def test_the_days_before_the_shift_are_those_of_the_world_without_it(world: World, shifted: World) -> None:
    shift = pd.Timestamp(SMALL.start, tz="UTC") + 40 * DAY
    before = world.transactions[world.transactions["event_timestamp"] < shift]
    pd.testing.assert_frame_equal(before, shifted.transactions.iloc[: len(before)])
    pd.testing.assert_frame_equal(world.truth.iloc[: len(before)], shifted.truth.iloc[: len(before)])
    assert shifted.transactions["event_timestamp"].iloc[len(before)] >= shift


def test_after_the_shift_frauds_have_new_amounts_hours_terminals_and_speed(shifted: World) -> None:
    frame = joined(shifted)
    new = frame[frame["scenario"] == 4]
    assert len(new) > 100 and new["day"].min() >= 40
    assert (
        frame["compromised_since"][frame["scenario"] == 3].dt.date < date(2018, 5, 11)
    ).all()  # no new leaks of old kind
    assert new["amount"].median() < 20 and new["amount"].max() <= 60
    assert (new["event_timestamp"].dt.hour < 8).all()
    assert not set(new["terminal_id"]) & set(frame["terminal_id"][frame["scenario"] < 4])
    alive = new.groupby("terminal_id")["event_timestamp"].agg(lambda times: times.max() - times.min())
    assert alive.max() < DAY / 2  # gone before a label comes
    bursts = new.groupby("terminal_id").size()
    assert bursts.mean() > 5


DECIDED = pd.DataFrame(
    {
        "transaction_id": ["t-000000000", "t-000000001", "t-000000002"],
        "event_timestamp": pd.Timestamp("2018-04-02T10:00", tz="UTC"),
        "decision": ["approve", "review", "decline"],
    }
)


def test_labels_follow_from_decisions_and_declined_payments_never_get_one(world: World) -> None:
    labels = labels_for(world.transactions, DECIDED)
    made = world.transactions.set_index("transaction_id")
    assert list(labels.columns) == list(Label.__struct_fields__)
    assert labels[["transaction_id", "source"]].values.tolist() == [
        ["t-000000001", "review"],
        ["t-000000000", "chargeback"],
    ]
    assert labels["event_timestamp"].tolist() == [
        pd.Timestamp("2018-04-03T10:00", tz="UTC"),
        made.loc["t-000000000", "label_timestamp"],
    ]
    assert labels["transaction_timestamp"].tolist() == made.loc[labels["transaction_id"], "event_timestamp"].tolist()


def test_a_payment_of_unknown_truth_gets_no_label(world: World) -> None:
    unknown = world.transactions.assign(is_fraud=world.transactions["is_fraud"].astype("boolean"))
    unknown.loc[0, "is_fraud"] = pd.NA
    assert labels_for(unknown, DECIDED)["transaction_id"].tolist() == ["t-000000001"]


def test_every_kind_of_malformed_payload_is_refused_by_the_strict_decoder() -> None:
    payloads = malformed_payloads(60, seed=3)
    assert len(payloads) == 60 and len({kind for kind, _ in payloads}) >= 12
    assert payloads == malformed_payloads(60, seed=3)
    for _kind, raw in payloads:
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
            msgspec.json.decode(raw, type=Transaction)
