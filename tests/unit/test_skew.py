"""Skew: a decision's logged features against the lake, at the watermarks that it read."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from whiteboard.fraud.events import LABELS, TRANSACTIONS, Label, Transaction
from whiteboard.fraud.features import CUSTOMER_FOLD, online_values, point_in_time_sql, unseen_events_sql, watermarks
from whiteboard.lake import Lake, connect
from whiteboard.skew import Skew, compare, reach

AT = datetime(2026, 1, 5, 12, tzinfo=UTC)
T_US = int(AT.timestamp()) * 1_000_000


def lake_of(payments: int) -> pd.DataFrame:
    frame = pd.DataFrame({"transaction_id": [f"t-{i}" for i in range(payments)], "offset": range(payments)})
    frame = frame.assign(customer_id="c", terminal_id="m", amount=10.0, epoch=0, partition=0, trace="")
    times = pd.Series([pd.Timestamp(AT)] * payments).astype("datetime64[us, UTC]")
    early = (times - pd.Timedelta(hours=1)).astype("datetime64[us, UTC]")
    return frame.assign(event_timestamp=early, created_timestamp=early)


def skew_of(seen: int, change: float = 0.0) -> Skew:
    """A decision that had folded `seen` of three payments, logged with `change` added to one feature."""
    row = CUSTOMER_FOLD.decode(None)
    event = Transaction(transaction_id="t", event_timestamp=AT, customer_id="c", terminal_id="m", amount=10.0)
    earlier = datetime.fromtimestamp(AT.timestamp() - 3600, UTC)
    for offset in range(seen):
        made = Transaction(transaction_id="x", event_timestamp=earlier, customer_id="c", terminal_id="m", amount=10.0)
        CUSTOMER_FOLD.fold(row, made, TRANSACTIONS, 0, 0, offset)
    state = CUSTOMER_FOLD.encode(row)
    features: dict[str, float | None] = dict(online_values(event.amount, T_US, state, None))
    features["customer_count_1d"] = (features["customer_count_1d"] or 0) + change
    decisions = pd.DataFrame(
        [
            {
                "transaction_id": "d",
                "customer_id": "c",
                "terminal_id": "m",
                "amount": 10.0,
                "event_timestamp": pd.Timestamp(AT),
                "created_timestamp": pd.Timestamp(AT),
                "degraded": False,
                "features": features,
                "watermarks": json.dumps(watermarks(state, None)),
            }
        ]
    ).astype({"event_timestamp": "datetime64[us, UTC]", "created_timestamp": "datetime64[us, UTC]"})
    with connect() as connection:
        connection.register("payments", lake_of(3))
        labels = Lake(Path("nowhere")).relation(LABELS, Label)
        return compare(
            connection,
            decisions,
            {TRANSACTIONS: {(0, 0): 3}},
            lambda rows: point_in_time_sql(rows, "payments", labels, "watermark"),
            lambda rows: unseen_events_sql(rows, "payments", labels),
        )


def test_decision_that_saw_everything_is_equal_but_for_its_terminal() -> None:
    found = skew_of(3)
    assert (found.compared, found.mismatched) == (1, 0)


def test_unseen_events_are_staleness_and_no_mismatch() -> None:
    found = skew_of(1)
    assert (found.compared, found.mismatched, found.stale) == (1, 0, 1)


def test_feature_that_differs_is_a_mismatch_with_both_values() -> None:
    found = skew_of(2, change=1.0)
    assert found.mismatched == 1
    assert found.examples[0]["features"]["customer_count_1d"] == {"online": 3.0, "offline": 2.0}


def test_decision_is_compared_only_when_the_lake_holds_what_it_read() -> None:
    mark = json.dumps({"customer": {TRANSACTIONS: [0, {"1": 7}]}})
    assert reach(mark, {TRANSACTIONS: {(0, 1): 8}}) == "covered"
    assert reach(mark, {TRANSACTIONS: {(0, 1): 7}}) == "waiting"
    assert reach(mark, {TRANSACTIONS: {(0, 1): 7, (1, 1): 2}}) == "lost", "its log was begun anew"
