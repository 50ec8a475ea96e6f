"""Experiments: who is assigned to what, what may run side by side, and what is written down."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from whiteboard.errors import ExperimentError
from whiteboard.experiment import Experiment, Experiments, Guardrail, Metric, arm_of, check, declare, stop
from whiteboard.experiment_report import judge, matured, write
from whiteboard.experiment_statistics import fixed, imbalance, unit_values
from whiteboard.settings import Settings

START = datetime(2026, 3, 1, tzinfo=UTC)
UNITS = [f"u-{number}" for number in range(20_000)]
CLICKS = Metric(name="clicks", numerator="clicks")


def experiment(name: str = "ranker", **changes: object) -> Experiment:
    arms = {"popularity": 0.5, "ranker": 0.5}
    base = Experiment(name=name, system="recommendation", arms=arms, metric=CLICKS, started_at=START)
    return msgspec.structs.replace(base, **changes)


def shares(chosen: list[str | None]) -> dict[str | None, float]:
    return {arm: chosen.count(arm) / len(chosen) for arm in set(chosen)}


def test_arms_have_the_declared_shares_and_stay_with_their_units() -> None:
    found = [arm_of(experiment(arms={"a": 0.2, "b": 0.5, "c": 0.3}), unit) for unit in UNITS]
    assert shares(found) == pytest.approx({"a": 0.2, "b": 0.5, "c": 0.3}, abs=0.015)
    assert found == [arm_of(experiment(arms={"a": 0.2, "b": 0.5, "c": 0.3}), unit) for unit in UNITS]


def test_experiments_of_one_layer_share_the_units_out_and_its_holdout_gets_none() -> None:
    first = experiment("first", traffic_to=0.4)
    second = experiment("second", traffic_from=0.4, traffic_to=0.9)  # a tenth is held out
    both = Experiments([first, second])
    assigned = [both.assign(unit, START) for unit in UNITS]
    assert not [found for found in assigned if len(found) > 1]
    assert shares([next(iter(found), None) for found in assigned]) == pytest.approx(
        {"first": 0.4, "second": 0.5, None: 0.1}, abs=0.015
    )


def test_the_arm_in_one_layer_says_nothing_about_the_arm_in_another() -> None:
    ranking, layout = experiment("ranking", layer="a"), experiment("layout", layer="b")
    pairs = [(arm_of(ranking, unit), arm_of(layout, unit)) for unit in UNITS]
    assert all(abs(pairs.count(pair) / len(pairs) - 0.25) < 0.015 for pair in set(pairs))


def test_nobody_is_assigned_before_the_start_or_after_the_stop() -> None:
    found = Experiments([experiment(stopped_at=START + timedelta(days=2))])
    hours = [found.assign("u-1", START + timedelta(hours=h)) for h in (-1, 0, 47, 48)]
    assert [bool(h) for h in hours] == [False, True, True, False]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": {"a": 1.0}}, "two or more"),
        ({"arms": {"a": 0.5, "b": 0.6}}, "add up to 1.1"),
        ({"traffic_from": 0.5, "traffic_to": 0.5}, "claims no units"),
    ],
)
def test_an_experiment_that_cannot_run_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        check(msgspec.structs.replace(experiment(), **changes))


def test_units_of_a_layer_cannot_be_claimed_twice_at_a_time(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    declare(settings, experiment("first"))
    with pytest.raises(ExperimentError, match="claim the same units of layer default"):
        declare(settings, experiment("second"))
    stop(settings, "first", START + timedelta(days=9))
    declare(settings, experiment("second", started_at=START + timedelta(days=9)))
    assert [e.name for e in Experiments.of(settings, "recommendation").all] == ["first", "second"]
    assert not Experiments.of(settings, "fraud").all


def test_a_running_experiment_cannot_be_changed_and_a_broken_file_is_named(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    path = declare(settings, experiment())
    declare(settings, experiment())  # the same again is no change
    with pytest.raises(ExperimentError, match="with other settings"):
        declare(settings, experiment(arms={"popularity": 0.9, "ranker": 0.1}))
    path.write_text('{"name": "ranker"')
    with pytest.raises(ExperimentError, match=r"ranker.json declares no experiment"):
        Experiments.of(settings, "recommendation")


def outcomes(clicks: dict[str, list[float]], **columns: list[float]) -> pd.DataFrame:
    rows = [(arm, value) for arm, values in clicks.items() for value in values]
    frame = pd.DataFrame(rows, columns=["arm", "clicks"]).assign(**columns)
    at = pd.date_range(START, periods=len(frame), freq="min")
    return frame.assign(unit_id=[f"u-{i}" for i in range(len(frame))], exposed_at=at)


def test_a_ratio_is_that_of_the_sums_and_not_the_mean_of_ratios() -> None:
    frame = outcomes({"a": [1, 0], "b": [3, 5]}, impressions=[10, 90, 10, 10])
    values = unit_values(frame, Metric(name="ctr", numerator="clicks", denominator="impressions"))
    assert [values[:2].mean(), values[2:].mean()] == pytest.approx([0.01, 0.4])


def test_arms_that_are_not_as_declared_are_invalid_whatever_they_show() -> None:
    frame = outcomes({"popularity": [0.0, 1.0] * 5_000, "ranker": [5.0, 6.0] * 4_600})
    found = judge(experiment(), frame)
    assert found.verdict == "invalid"
    assert (
        imbalance({"a": 5_200, "b": 4_800}, {"a": 0.5, "b": 0.5})
        < 0.001
        < imbalance({"a": 5_050, "b": 4_950}, {"a": 0.5, "b": 0.5})
    )


def test_the_decision_is_written_with_its_figures_and_its_plot(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    frame = outcomes({"popularity": list(rng.normal(5, 1, 2_000)), "ranker": list(rng.normal(5.5, 1, 2_000))})
    report = write(judge(experiment(), frame.sample(frac=1, random_state=1)), tmp_path)
    found = json.loads((tmp_path / "decision.json").read_text())
    assert found["verdict"] == "launch"
    reading = found["readings"][0]
    assert (
        reading["sequential"]["low"]
        < reading["fixed"]["low"]
        < 0.5
        < reading["fixed"]["high"]
        < reading["sequential"]["high"]
    )
    assert "launch" in report.read_text() and (tmp_path / "effect.png").stat().st_size > 5_000


def test_an_arm_without_units_and_a_metric_without_column_are_named() -> None:
    with pytest.raises(ExperimentError, match="wait until each arm has some"):
        judge(experiment(), outcomes({"popularity": [1.0] * 200}))
    with pytest.raises(ExperimentError, match="metric revenue wants revenue"):
        judge(
            experiment(metric=Metric(name="revenue", numerator="revenue")),
            outcomes({"popularity": [1.0] * 200, "ranker": [1.0] * 200}),
        )


def test_a_unit_counts_when_its_window_is_over_and_not_in_two_arms() -> None:
    at = pd.Timestamp(START)
    rows = [("u-1", "a", 0), ("u-1", "a", 3), ("u-2", "b", 1), ("u-3", "a", 0), ("u-3", "b", 1), ("u-4", "b", 9)]
    frame = pd.DataFrame(
        [(unit, arm, at + pd.Timedelta(days=day)) for unit, arm, day in rows], columns=["unit_id", "arm", "exposed_at"]
    )
    found = matured(frame, at + pd.Timedelta(days=10), window_days=7)
    assert found["unit_id"].tolist() == ["u-1", "u-2"]
    assert found["exposed_at"].iloc[0] == at, "the first exposure"


def test_the_worse_ranker_is_stopped_by_its_guardrail_long_before_the_horizon() -> None:
    rng = np.random.default_rng(5)
    purchases = {"popularity": rng.poisson(1.0, 4_000), "ranker": rng.poisson(0.7, 4_000)}
    clicks = np.concatenate([rng.poisson(5.0, 4_000), rng.poisson(5.3, 4_000)]).astype(float)  # it has more clicks
    frame = outcomes({arm: list(values.astype(float)) for arm, values in purchases.items()})
    frame = frame.rename(columns={"clicks": "purchases"}).assign(clicks=clicks).sample(frac=1, random_state=2)
    frame["exposed_at"] = pd.date_range(START, periods=len(frame), freq="min")
    rail = Guardrail(metric=Metric(name="purchases", numerator="purchases"), margin=0.05)
    guarded = experiment(guardrails=(rail,), units=20_000, minimum_effect=0.1)
    assert judge(guarded, frame.head(200)).verdict == "continue"
    assert judge(guarded, frame).verdict == "stop"
    assert "purchases" in judge(guarded, frame).reason
    assert judge(experiment(units=4_000), frame).verdict == "launch", "without the guardrail nobody would have seen it"


def test_the_fixed_test_is_welchs_as_scipy_has_it() -> None:
    rng = np.random.default_rng(4)
    one, other = rng.gamma(2, 3, 400), rng.gamma(2, 2, 90)
    found, known = fixed(one, other, 0.1), stats.ttest_ind(one, other, equal_var=False)
    interval = known.confidence_interval(0.9)
    assert (found.p_value, found.low, found.high) == pytest.approx((known.pvalue, interval.low, interval.high))


@pytest.mark.parametrize(("difference", "p_value"), [(0.0, 1.0), (2.0, 0.0)])
def test_arms_without_variance_leave_no_doubt(difference: float, p_value: float) -> None:
    found = fixed(np.full(50, 1 + difference), np.full(60, 1.0), 0.05)
    assert (found.low, found.high, found.p_value) == (difference, difference, p_value)
