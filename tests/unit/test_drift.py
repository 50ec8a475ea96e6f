"""Drift verdicts with thresholds calibrated on the reference, and Evidently's page of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evidently import DataDefinition, Dataset, Report
from evidently.metrics import DriftedColumnsCount, ValueDrift

from whiteboard.drift import LEAST_THRESHOLD, Baseline, ColumnDrift, DriftVerdict, distance

COLUMNS = [f"f{i}" for i in range(10)]
ROWS = 400  # a day


def sample(seed: int, days: int = 1, rows: int = ROWS) -> pd.DataFrame:
    """Days of a heavy-tailed population; f8 has no value for half of the rows, f9 for nearly all."""
    rng = np.random.default_rng(seed)
    size = days * rows
    frame = pd.DataFrame(rng.lognormal(0, 1, (size, len(COLUMNS))), columns=COLUMNS)
    frame["f8"] = frame["f8"].where(rng.random(size) < 0.5)
    frame["f9"] = frame["f9"].where(rng.random(size) < 0.02)
    stamps = pd.Timestamp("2026-01-05", tz="UTC") + pd.to_timedelta(np.arange(size) // rows, unit="D")
    return frame.assign(event_timestamp=stamps)


def with_restless_days(seed: int) -> pd.DataFrame:
    """Days of which each has another level in f0, by chance."""
    frame = sample(seed, days=10)
    level = np.random.default_rng(seed).normal(0, 1, 10).repeat(ROWS)
    return frame.assign(f0=frame["f0"] + level)


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    return Baseline.of(sample(0, days=10), COLUMNS)


@pytest.mark.parametrize("rows", [100, ROWS, 3 * ROWS])
def test_day_of_the_same_population_has_not_drifted(baseline: Baseline, rows: int) -> None:
    assert [baseline.compare(sample(seed, rows=rows)).drifted for seed in range(1, 21)] == [False] * 20


def test_new_pattern_in_two_columns_is_drift_and_names_them(baseline: Baseline, tmp_path: Path) -> None:
    window = sample(9)
    window.loc[window.index[:60], ["f2", "f5"]] = 12.0  # one payment in seven behaves anew
    verdict = baseline.compare(window, tmp_path / "reports" / "day.html")
    assert verdict.drifted
    assert set(verdict.farthest()) == {"f2", "f5"}
    page = (tmp_path / "reports" / "day.html").read_text()
    assert len(page) > 100_000
    assert {column for column in COLUMNS if f"Drift in column '{column}'" in page} == {"f2", "f5"}


def test_one_column_in_thirty_that_wanders_off_is_no_drift_of_the_window() -> None:
    calm, far = ColumnDrift(0.1, 0.2), ColumnDrift(0.4, 0.2)
    assert not DriftVerdict(500, {"far": far} | {f"f{i}": calm for i in range(29)}).drifted
    assert DriftVerdict(500, {"far": far, "too": far} | {f"f{i}": calm for i in range(28)}).drifted


def test_evidently_measures_the_same_distance_and_counts_the_same_columns(baseline: Baseline) -> None:
    window = sample(3)
    window["f2"] += 1.0
    verdict = baseline.compare(window)
    thresholds = {name: column.threshold for name, column in verdict.columns.items()}
    report = Report(
        [
            DriftedColumnsCount(num_method="wasserstein", per_column_threshold=thresholds),
            *(ValueDrift(column=c, method="wasserstein", threshold=t) for c, t in thresholds.items()),
        ]
    )
    definition = DataDefinition(numerical_columns=list(thresholds))
    ours, theirs = (Dataset.from_pandas(f[list(thresholds)], definition) for f in (window, baseline.reference))
    count, *distances = (metric["value"] for metric in report.run(ours, theirs).dict()["metrics"])
    assert distances == pytest.approx([column.score for column in verdict.columns.values()], rel=1e-12)
    assert count == {"count": 1, "share": pytest.approx(verdict.share)}


def test_column_whose_days_differ_by_themselves_gets_a_wider_threshold() -> None:
    restless = Baseline.of(with_restless_days(1), COLUMNS).thresholds
    assert restless["f0"] > 2 * restless["f1"]
    assert min(restless.values()) >= LEAST_THRESHOLD


def test_smaller_window_must_lie_farther_away_to_have_drifted(baseline: Baseline) -> None:
    small, usual, large = (baseline.compare(sample(5, rows=rows)).columns["f0"].threshold for rows in (100, 400, 1600))
    assert small == pytest.approx(2 * usual)
    assert large == usual == baseline.thresholds["f0"]


def test_reference_of_a_single_day_is_held_against_parts_of_itself() -> None:
    baseline = Baseline.of(sample(0, days=1, rows=2000), COLUMNS)
    assert baseline.rows == pytest.approx(400, abs=40)
    assert not baseline.compare(sample(1)).drifted


def test_hardly_defined_column_is_left_out(baseline: Baseline) -> None:
    assert "f9" not in baseline.compare(sample(2)).columns


@pytest.mark.parametrize("left", [0, 20])
def test_column_that_lost_its_values_has_drifted(baseline: Baseline, left: int) -> None:
    window = sample(2)
    window.loc[window.index[left:], "f8"] = np.nan
    assert baseline.compare(window).columns["f8"].drifted


def test_column_without_any_value_in_the_reference_is_left_out() -> None:
    baseline = Baseline.of(sample(0, days=3).assign(f1=np.nan), COLUMNS)
    assert "f1" not in baseline.compare(sample(1)).columns


def test_window_too_small_to_judge_is_no_drift(baseline: Baseline) -> None:
    verdict = baseline.compare(sample(3, rows=99))
    assert (verdict.rows, verdict.share, verdict.drifted, verdict.columns) == (99, 0.0, False, {})


def test_distance_is_in_standard_deviations_and_leaves_out_what_is_undefined() -> None:
    a = pd.Series([0.0, 2.0, np.nan])
    assert distance(a, a + 3) == pytest.approx(3.0)  # the standard deviation is 1
    assert distance(a, pd.Series([np.nan])) == 0.0
