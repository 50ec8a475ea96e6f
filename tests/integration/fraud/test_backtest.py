"""The Handbook's protocol on a small world: windows, card filter, features without leaks, and the result."""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines.fraud.backtest import backtest, with_features
from pipelines.fraud.backtest_result import MODELS, print_table
from pipelines.fraud.protocol import Windows, hidden_frauds, leak_check
from whiteboard.errors import ContractError, NotEnoughDataError
from whiteboard.fraud.features import FEATURES
from whiteboard.fraud.world import World, WorldConfig, simulate

TRAIN_START = date(2018, 5, 11)
DAY = pd.Timedelta(days=1)


@pytest.fixture(scope="module")
def world() -> World:
    return simulate(WorldConfig(customers=400, terminals=800, days=75, seed=3))


@pytest.fixture(scope="module", autouse=True)
def fewer_trees() -> Iterator[None]:
    """Enough for a small world, and five times as fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.fraud.backtest.TREES", 60)
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backtest") / "new" / "result.json"


@pytest.fixture(scope="module")
def result(world: World, out: Path) -> dict[str, Any]:
    return backtest(world.transactions, train_start=TRAIN_START, weeks=2, out=out, truth=world.truth)


def cards_tested_in_words(frame: pd.DataFrame) -> tuple[set[str], set[str]]:
    """Ids in the train and in the test window, by the Handbook's rule, day by day."""
    start = pd.Timestamp(TRAIN_START, tz="UTC")
    day = (frame["event_timestamp"] - start) // DAY
    train = frame[(day >= 0) & (day < 7)]
    known = set(train["customer_id"][train["is_fraud"]])
    tested: set[str] = set()
    for i in range(7):
        known |= set(frame["customer_id"][(day == 7 + i - 1) & frame["is_fraud"]])
        today = frame[day == 14 + i]
        tested |= set(today["transaction_id"][~today["customer_id"].isin(known)])
    return set(train["transaction_id"]), tested


def test_windows_and_card_filter_are_the_handbooks(world: World) -> None:
    frame, windows = world.transactions, Windows(TRAIN_START)
    train, tested = cards_tested_in_words(frame)
    assert set(frame["transaction_id"][windows.train_rows(frame)]) == train
    assert set(frame["transaction_id"][windows.test_rows(frame)]) == tested
    unfiltered = (frame["event_timestamp"] >= pd.Timestamp(windows.test_start, tz="UTC")) & (
        frame["event_timestamp"] < pd.Timestamp(windows.test_end, tz="UTC")
    )
    assert 0 < len(tested) < unfiltered.sum()


def test_a_payment_without_a_label_is_neither_trained_on_nor_tested(world: World) -> None:
    frame, windows = world.transactions, Windows(TRAIN_START)
    unknown = frame.assign(is_fraud=frame["is_fraud"].astype("boolean").mask(frame.index % 2 == 0))
    for rows in (windows.train_rows, windows.test_rows):
        assert not rows(unknown)[::2].any() and rows(unknown)[1::2].any()


def test_consecutive_weeks_lie_end_to_end() -> None:
    first, second = Windows(TRAIN_START, train_days=7, delay_days=5, test_days=3).weeks(2)
    assert (first.test_start, first.test_end) == (date(2018, 5, 23), date(2018, 5, 26))
    assert second.test_start == first.test_end


def test_the_result_has_every_figure_with_floor_ceiling_and_interval(
    result: dict[str, Any], out: Path, world: World
) -> None:
    assert json.loads(out.read_text()) == result
    train, tested = cards_tested_in_words(world.transactions)
    first, second = result["weeks"]
    frauds = world.transactions.set_index("transaction_id")["is_fraud"]
    assert first["train"] == {"rows": len(train), "frauds": int(frauds[list(train)].sum())}
    assert first["test"] == {"rows": len(tested), "frauds": int(frauds[list(tested)].sum())}
    assert result["test"]["rows"] == first["test"]["rows"] + second["test"]["rows"]
    assert set(result["models"]) == {*MODELS, "random", "oracle"}
    for metric in ("roc_auc", "average_precision", "card_precision_at_100"):
        assert result[metric] == pytest.approx((first[metric] + second[metric]) / 2)
        assert result["models"]["random"][metric] < result[metric] <= result["models"]["oracle"][metric]
        low, high = result["intervals"][metric]
        assert low <= result[metric] <= high
    assert result["oracle_card_precision_at_100"] == result["models"]["oracle"]["card_precision_at_100"]
    assert (
        result["models"]["all_labelled"]["learnt_from"]["rows"]
        > result["models"]["train_window"]["learnt_from"]["rows"]
    )
    assert result["seconds"] > 0 and 0 < result["peak_rss_gb"] < 8
    assert print_table(result).row_count == 5


def test_the_models_have_learnt_something_and_know_nothing_that_they_cannot_know(result: dict[str, Any]) -> None:
    assert result["average_precision"] > 0.4 and result["roc_auc"] > 0.75
    leaks = result["leak_check"]
    assert leaks["frauds"] > 5
    assert leaks["mean_percentile"] - 0.5 < leaks["noise"]


def test_features_do_not_change_with_labels_that_become_known_later(world: World) -> None:
    frame = world.transactions
    moment = pd.Timestamp(TRAIN_START, tz="UTC")
    rows = frame[frame["event_timestamp"].between(moment - DAY, moment)].assign(weight=1.0, thinned=True)
    flipped = frame.assign(is_fraud=frame["is_fraud"] ^ (frame["label_timestamp"] >= moment))
    past = frame.assign(is_fraud=frame["is_fraud"] ^ (frame["label_timestamp"] < moment - 2 * DAY))
    honest, later, earlier = (with_features(f, rows)[list(FEATURES)] for f in (frame, flipped, past))
    pd.testing.assert_frame_equal(honest, later)
    assert not honest.equals(earlier)  # the labels that were known do matter


def test_the_leak_check_finds_a_model_that_saw_the_truth(world: World) -> None:
    frame = world.transactions
    test = frame.iloc[len(frame) // 2 :].reset_index(drop=True)
    blind = np.random.default_rng(0).random(len(test))
    seer = blind + test["is_fraud"].to_numpy()
    honest, leaking = (leak_check([hidden_frauds(test, risk, frame, world.truth)]) for risk in (blind, seer))
    assert honest["frauds"] == leaking["frauds"] > 50
    assert abs(honest["mean_percentile"] - 0.5) < honest["noise"] < leaking["mean_percentile"] - 0.5
    assert leaking["mean_percentile"] > 0.95


def test_hidden_frauds_are_those_before_the_first_label_of_their_compromise(world: World) -> None:
    frame = world.transactions
    hidden = hidden_frauds(frame, np.zeros(len(frame)), frame, world.truth)
    truth = world.truth.loc[hidden.index]
    assert (truth["scenario"] == 2).all() and (frame.loc[hidden.index, "amount"] <= 220).all()
    since_leak = frame.loc[hidden.index, "event_timestamp"] - truth["compromised_since"]
    assert since_leak.median() < 7 * DAY
    assert len(hidden) < (world.truth["scenario"] == 2).sum() / 2


@pytest.mark.parametrize("train_start", [date(2018, 3, 1), date(2018, 6, 1)])
def test_windows_outside_the_data_are_refused_with_its_reach(world: World, train_start: date) -> None:
    with pytest.raises(NotEnoughDataError, match=r"from 2018-04-01 to 2018-06-14.*needs"):
        backtest(world.transactions, train_start=train_start)


def test_a_window_without_frauds_is_refused(world: World) -> None:
    with pytest.raises(NotEnoughDataError, match="nothing to learn"):
        backtest(world.transactions.assign(is_fraud=False), train_start=TRAIN_START)


def test_a_file_gives_what_its_frame_gives_and_a_broken_one_is_refused(
    world: World, result: dict[str, Any], tmp_path: Path
) -> None:
    path = world.save(tmp_path)
    again = backtest(path, train_start=TRAIN_START)
    assert again["weeks"][0]["average_precision"] == pytest.approx(result["weeks"][0]["average_precision"], abs=1e-12)
    assert "leak_check" not in again  # a file has no truth
    world.transactions.drop(columns="terminal_id").to_parquet(path)
    with pytest.raises(ContractError, match="terminal_id"):
        backtest(path, train_start=TRAIN_START)
