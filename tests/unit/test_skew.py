"""Skew: a decision's logged features against the lake, at the watermarks that it read."""

import json
from datetime import UTC, datetime, timedelta
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from whiteboard.fraud.events import LABELS, TRANSACTIONS, Label, Transaction
from whiteboard.fraud.features import CUSTOMER_FOLD, online_values, point_in_time_sql, unseen_events_sql, watermarks
from whiteboard.lake import Lake, connect
from whiteboard.skew import Coverage, Logged, Skew, comparable, compare, reach

AT = datetime(2026, 1, 5, 12, tzinfo=UTC)
EARLIER = AT - timedelta(hours=1)
T_US = int(AT.timestamp()) * 1_000_000
COVERAGE: Coverage = {TRANSACTIONS: {(0, 0): 3}, LABELS: {}}


def payments() -> pd.DataFrame:
    """What the lake holds: three payments of card c, an hour before the decisions."""
    frame = pd.DataFrame({"transaction_id": [f"t-{i}" for i in range(3)], "offset": range(3)})
    frame = frame.assign(customer_id="c", terminal_id="m", amount=10.0, epoch=0, partition=0, trace="")
    times = pd.Series([pd.Timestamp(EARLIER)] * 3).astype("datetime64[us, UTC]")
    return frame.assign(event_timestamp=times, created_timestamp=times)


def decision(seen: int = 3, **changes: Any) -> dict[str, Any]:
    """A decision by a service whose customer row held the first `seen` payments; `changes` go to the logged row."""
    row = CUSTOMER_FOLD.decode(None)
    for offset in range(seen):
        made = Transaction(
            transaction_id=f"t-{offset}", event_timestamp=EARLIER, customer_id="c", terminal_id="m", amount=10.0
        )
        CUSTOMER_FOLD.fold(row, made, TRANSACTIONS, 0, 0, offset)
    state = CUSTOMER_FOLD.encode(row)
    return {
        "transaction_id": "d",
        "customer_id": "c",
        "terminal_id": "elsewhere",
        "amount": 10.0,
        "event_timestamp": pd.Timestamp(AT),
        "created_timestamp": pd.Timestamp(AT),
        "epoch": 0,
        "partition": 0,
        "offset": 0,
        "degraded": False,
        "reasons": "[]",
        "features": online_values(10.0, T_US, state, None),
        "watermarks": json.dumps(watermarks(state, None)),
    } | changes


def skew_of(*decisions: dict[str, Any]) -> Skew:
    times = dict.fromkeys(("event_timestamp", "created_timestamp"), "datetime64[us, UTC]")
    with connect() as connection:
        connection.register("payments", payments())
        labels = Lake(Path("nowhere")).relation(LABELS, Label)
        return compare(
            connection,
            pd.DataFrame(list(decisions)).astype(times).drop(columns=["features"]),
            logged(*(one["features"] for one in decisions)),
            COVERAGE,
            lambda rows: point_in_time_sql(rows, "payments", labels, "watermark"),
            lambda rows: unseen_events_sql(rows, "payments", labels),
            "transaction_id",
        )


def logged(*maps: dict[str, float | None]) -> Logged:
    kind = pa.map_(pa.string(), pa.float64())
    return Logged.of(pa.chunked_array([pa.array([list(one.items()) for one in maps], kind)]))


def with_feature(name: str, value: float | None) -> dict[str, Any]:
    return decision(features=decision()["features"] | {name: value})


def test_decision_that_saw_everything_is_equal_and_not_stale() -> None:
    assert skew_of(decision()) == Skew(compared=1)


def test_unseen_events_are_staleness_and_no_mismatch() -> None:
    assert skew_of(decision(seen=1), decision(seen=3, transaction_id="e")) == Skew(compared=2, stale=1)


def test_transaction_that_was_decided_twice_is_compared_twice() -> None:
    """Two services may both answer a retry, each from the rows as it found them."""
    found = skew_of(decision(seen=1), decision(seen=3))
    assert (found.compared, found.mismatched) == (2, 0)


def test_event_known_only_after_the_decision_is_no_staleness() -> None:
    before = pd.Timestamp(EARLIER) - pd.Timedelta(seconds=1)
    assert skew_of(decision(seen=0, created_timestamp=before)) == Skew(compared=1)


def test_feature_that_differs_is_a_mismatch_with_both_values() -> None:
    found = skew_of(with_feature("customer_count_1d", 4.0), decision())
    assert (found.compared, found.mismatched) == (2, 1)
    assert found.examples == [
        {"transaction_id": "d", "features": {"customer_count_1d": {"online": 4.0, "offline": 3.0}}}
    ]


@pytest.mark.parametrize("undefined", [None, float("nan")])
def test_two_undefined_values_are_equal_whatever_stands_for_them(undefined: float | None) -> None:
    assert skew_of(with_feature("terminal_fraud_rate_1d", undefined)).mismatched == 0


def test_value_where_the_other_side_has_none_is_a_mismatch_that_json_can_write() -> None:
    examples = skew_of(with_feature("customer_mean_7d", None), with_feature("terminal_fraud_rate_1d", 0.0)).examples
    assert [example["features"] for example in examples] == [
        {"customer_mean_7d": {"online": None, "offline": 10.0}},
        {"terminal_fraud_rate_1d": {"online": 0.0, "offline": None}},
    ]
    assert json.loads(json.dumps(examples, allow_nan=False)) == examples


@pytest.mark.parametrize(("relative", "mismatched"), [(1e-10, 0), (1e-8, 1)])
def test_values_are_equal_to_nine_digits(relative: float, mismatched: int) -> None:
    assert skew_of(with_feature("customer_mean_7d", 10.0 * (1 + relative))).mismatched == mismatched


def test_an_infinite_value_equals_no_finite_one() -> None:
    assert skew_of(with_feature("customer_mean_7d", float("inf"))).mismatched == 1


def test_feature_that_is_not_computed_any_more_is_left_out() -> None:
    assert skew_of(with_feature("customer_median_7d", 1.0)) == Skew(compared=1)


def test_feature_that_one_decision_did_not_log_is_compared_in_the_others_only() -> None:
    """A service and its successor with one more feature decide side by side for a while."""
    older = {name: value for name, value in decision()["features"].items() if name != "customer_count_1d"}
    wrong = with_feature("customer_count_1d", 4.0)
    assert skew_of(decision(features=older), wrong, decision(features={})) == Skew(
        compared=3,
        mismatched=1,
        examples=[{"transaction_id": "d", "features": {"customer_count_1d": {"online": 4.0, "offline": 3.0}}}],
    )


def test_logged_maps_become_columns_whatever_each_of_them_has() -> None:
    found = logged({"a": 1.0, "b": None}, {}, {"c": 3.0, "a": 2.0})
    values = pd.DataFrame({"a": [1.0, nan, 2.0], "b": [nan, nan, nan], "c": [nan, nan, 3.0]})
    pd.testing.assert_frame_equal(found.values, values)
    assert found.there.to_dict("list") == {
        "a": [True, False, True],
        "b": [True, False, False],
        "c": [False, False, True],
    }
    assert found.at(pd.Index([2, 0])).values["a"].tolist() == [2, 1]
    assert logged().values.empty


def test_degraded_decision_is_counted_and_not_compared() -> None:
    assert skew_of(with_feature("customer_count_1d", 4.0) | {"degraded": True}) == Skew(degraded=1)


def test_decision_whose_log_was_lost_is_counted_and_not_compared() -> None:
    beyond = json.dumps({"customer": {TRANSACTIONS: [0, {"0": 9}]}, "terminal": {}})
    with connect() as connection:
        lost = compare(
            connection,
            pd.DataFrame([decision(watermarks=beyond)]),
            logged(decision()["features"]),
            {TRANSACTIONS: {(0, 0): 3, (1, 0): 1}},
            lambda rows: pytest.fail("nothing to recompute"),
            lambda rows: pytest.fail("nothing to recompute"),
            "transaction_id",
        )
    assert lost == Skew(lost=1)


def mark(offset: int, *, epoch: int = 0, topic: str = TRANSACTIONS) -> str:
    return json.dumps({"customer": {}, "terminal": {topic: [epoch, {"1": offset}]}})


@pytest.mark.parametrize(
    ("watermarks", "coverage", "expected"),
    [
        (mark(7), {TRANSACTIONS: {(0, 1): 8}}, "covered"),
        (mark(7), {TRANSACTIONS: {(0, 1): 7}}, "waiting"),
        (mark(7), {TRANSACTIONS: {(0, 2): 99}}, "waiting"),
        (mark(7), {}, "waiting"),
        (mark(7), {TRANSACTIONS: {(0, 1): 7, (1, 3): 2}}, "lost"),
        (mark(7), {TRANSACTIONS: {(0, 1): 8, (1, 3): 2}}, "covered"),
        (mark(7), {TRANSACTIONS: {(0, 1): 7}, LABELS: {(1, 1): 5}}, "waiting"),
        (mark(0, epoch=1), {TRANSACTIONS: {(0, 1): 8}}, "waiting"),
        ("{}", {}, "covered"),
    ],
)
def test_decision_waits_until_the_lake_holds_what_it_read(watermarks: str, coverage: Coverage, expected: str) -> None:
    assert reach(watermarks, coverage) == expected


def test_what_stands_behind_a_waiting_decision_waits_too_but_other_partitions_do_not() -> None:
    waiting = json.dumps({"customer": {TRANSACTIONS: [0, {"0": 3}]}})
    rows = [("a", 0, "{}"), ("b", 0, waiting), ("c", 0, "{}"), ("d", 1, "{}")]
    frame = pd.DataFrame(rows, columns=["transaction_id", "partition", "watermarks"]).assign(epoch=0)
    assert comparable(frame, COVERAGE)["transaction_id"].tolist() == ["a", "d"]
    assert comparable(frame.head(0), COVERAGE).empty
