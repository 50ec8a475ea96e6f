"""The model file: the same bits on every path, text only, words for people."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whiteboard.errors import ModelError
from whiteboard.fraud.calibration import Calibration, fit_calibration
from whiteboard.fraud.decision import CostTable, Thresholds
from whiteboard.fraud.features import FEATURES
from whiteboard.fraud.members import Anomaly, Linear, Member
from whiteboard.fraud.model import FraudModel, _load_pyfunc
from whiteboard.fraud.reasons import words

SIZE = len(FEATURES)


def make(ensemble: bool) -> FraudModel:
    rng = np.random.default_rng(0)
    matrix = some_rows(4000, seed=1)
    fraud = (np.nan_to_num(matrix[:, 0]) + rng.normal(0, 20, len(matrix)) > 60).astype(float)
    params = {"objective": "binary", "num_leaves": 15, "verbosity": -1, "num_threads": 1, "seed": 0}
    trees = lightgbm.train(params, lightgbm.Dataset(matrix, fraud), 60)
    center, scale = rng.uniform(0, 10, SIZE).tolist(), rng.uniform(1, 20, SIZE).tolist()
    members: list[tuple[float, Member]] = [
        (0.3, Linear(center, scale, rng.normal(size=SIZE).tolist(), -1.0)),
        (0.05, Anomaly(center, scale, [0.1] * SIZE, [rng.normal(size=i + 1).tolist() for i in range(SIZE)])),
    ]
    raw = trees.predict(matrix, raw_score=True)
    calibration = fit_calibration(np.asarray(raw), fraud, np.ones(len(fraud)))
    return FraudModel(
        trees.model_to_string(),
        FEATURES,
        calibration,
        Thresholds(0.05, 0.8),
        ensemble=members if ensemble else [],
        costs=CostTable(friction=40.0),
    )


def some_rows(count: int, seed: int) -> np.ndarray:
    """Feature rows with everything that can come up: undefined, zero, huge, negative."""
    rng = np.random.default_rng(seed)
    rows = rng.exponential(20, (count, SIZE))
    rows[rng.random(rows.shape) < 0.1] = np.nan
    rows[rng.random(rows.shape) < 0.1] = 0.0
    rows[rng.random(rows.shape) < 0.01] = 1e12
    rows[rng.random(rows.shape) < 0.05] *= -1
    return rows


@pytest.fixture(scope="module", params=["trees", "ensemble"])
def model(request: pytest.FixtureRequest) -> FraudModel:
    return make(ensemble=request.param == "ensemble")


def test_one_payment_scores_as_it_does_among_many_to_the_last_bit(model: FraudModel) -> None:
    rows = some_rows(2000, seed=2)
    one_by_one = [model.predict_one(row) for row in rows.tolist()]
    assert np.array_equal(one_by_one, model.predict(rows))
    assert np.array_equal(model.predict(rows)[700:900], model.predict(rows[700:900]))
    assert 0 < min(one_by_one) < max(one_by_one) < 1


def test_a_saved_model_scores_as_before_to_the_last_bit(model: FraudModel, tmp_path: Path) -> None:
    rows = some_rows(500, seed=3)
    again = FraudModel.load(model.save(tmp_path / "model"))
    assert np.array_equal(again.predict(rows), model.predict(rows))
    assert (again.thresholds, again.costs, again.features) == (model.thresholds, model.costs, model.features)
    assert {p.name for p in (tmp_path / "model").iterdir()} == {"model.txt", "model.json"}


def test_threads_may_share_a_model(model: FraudModel) -> None:
    rows = some_rows(400, seed=4).tolist()
    expected = [model.predict_one(row) for row in rows]
    with ThreadPoolExecutor(8) as pool:
        assert all(result == expected for result in pool.map(lambda _: [model.predict_one(r) for r in rows], range(16)))


def test_mlflow_loads_it_and_takes_a_frame_in_any_column_order(model: FraudModel, tmp_path: Path) -> None:
    rows = some_rows(50, seed=5)
    frame = pd.DataFrame(rows, columns=list(FEATURES)).assign(transaction_id="t")[["transaction_id", *FEATURES[::-1]]]
    assert np.array_equal(_load_pyfunc(str(model.save(tmp_path))).predict(frame), model.predict(rows))


def test_contributions_add_up_to_the_score() -> None:
    model = make(ensemble=False)
    for row in some_rows(20, seed=6).tolist():
        base = model._explain(row)[-1]
        assert sum(model.contributions(row)) + base == pytest.approx(model.raw(np.array([row]))[0], abs=1e-9)


def test_reasons_are_the_strongest_first_and_raise_the_risk(model: FraudModel) -> None:
    for row in some_rows(30, seed=7).tolist():
        reasons = model.reasons(row, k=3)
        contributions = [reason.contribution for reason in reasons]
        assert len(reasons) <= 3
        assert contributions == sorted(contributions, reverse=True)
        assert all(c > 0 for c in contributions)
        assert all(reason.text == words(reason.feature, row[FEATURES.index(reason.feature)]) for reason in reasons)


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("value", [0.0, 1.0, 5.25, float("nan")])
def test_every_feature_has_words(feature: str, value: float) -> None:
    text = words(feature, value)
    assert f"{feature} is" not in text
    if np.isnan(value) and not feature.startswith(("amount", "is_", "customer_count", "terminal_")):
        assert "nan" not in text


def test_words_for_people() -> None:
    assert words("amount_to_mean", 5.2) == "amount is 5.2 times the customer's mean"
    assert words("customer_count_1h", 1) == "1 payment by the customer in the last hour"
    assert (
        words("terminal_fraud_rate_28d", 0.5)
        == "50% of the terminal's payments labelled in the last 28 days were frauds"
    )
    assert words("seconds_since_customer_last", 7200) == "2 hours since the customer's last payment"


@pytest.mark.parametrize("damage", ["missing", "cut", "other features", "no json"])
def test_damaged_files_are_refused(damage: str, tmp_path: Path) -> None:
    folder = make(ensemble=False).save(tmp_path)
    description = json.loads((folder / "model.json").read_text())
    if damage == "missing":
        (folder / "model.txt").unlink()
    elif damage == "cut":
        (folder / "model.json").write_text(json.dumps(description)[:100])
    elif damage == "no json":
        (folder / "model.json").write_text("{}")
    else:
        (folder / "model.json").write_text(json.dumps(description | {"features": ["amount"]}))
    with pytest.raises(ModelError):
        FraudModel.load(folder)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=60))
def test_calibration_never_falls_and_is_the_same_for_one_and_for_many(raws: list[float]) -> None:
    knots = np.linspace(-10, 10, 41)
    calibration = Calibration(knots.tolist(), (1 / (1 + np.exp(-knots))).tolist())
    ordered = sorted(raws)
    one = [calibration.one(raw) for raw in ordered]
    assert one == calibration.many(np.array(ordered)).tolist()
    assert one == sorted(one)
    assert all(0 <= p <= 1 for p in one)


def test_calibration_recovers_the_true_odds() -> None:
    rng = np.random.default_rng(0)
    raw = rng.normal(-3, 2, 200_000)
    truth = 1 / (1 + np.exp(-(0.7 * raw - 0.5)))
    calibration = fit_calibration(raw, (rng.random(raw.size) < truth).astype(float), np.ones(raw.size))
    assert np.abs(calibration.many(raw) - truth).mean() < 0.002


def test_a_slice_that_the_score_separates_still_gives_finite_odds() -> None:
    raw, fraud = np.array([-3.0, -2.0, -1.0, 1.0, 2.0]), np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    probabilities = fit_calibration(raw, fraud, np.ones(5)).many(raw)
    assert (np.diff(probabilities) > 0).all()
    assert probabilities[-1] < 1


@pytest.mark.parametrize("fraud", [[0.0, 0.0], [1.0, 1.0]])
def test_a_slice_that_cannot_calibrate_is_refused(fraud: list[float]) -> None:
    with pytest.raises(ModelError):
        fit_calibration(np.array([-1.0, 1.0]), np.array(fraud), np.ones(2))


def test_a_score_that_ranks_backwards_keeps_its_order_and_the_share_of_frauds() -> None:
    raw = np.random.default_rng(0).normal(-2, 1, 2000)
    fraud = (raw < -3).astype(float)
    probabilities = fit_calibration(raw, fraud, np.ones(2000)).many(raw)
    assert np.array_equal(np.argsort(probabilities), np.argsort(raw))
    assert probabilities.mean() == pytest.approx(fraud.mean(), abs=0.01)
