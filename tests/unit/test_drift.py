"""Drift verdicts by Evidently, with thresholds calibrated on the reference."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from whiteboard.drift import Baseline

COLUMNS = [f"f{i}" for i in range(10)]


def sample(seed: int, days: int, rows: int = 400) -> pd.DataFrame:
    """Days of a heavy-tailed population, the last column defined for a few rows only."""
    rng = np.random.default_rng(seed)
    size = days * rows
    frame = pd.DataFrame(rng.lognormal(0, 1, (size, len(COLUMNS))), columns=COLUMNS)
    frame["f9"] = frame["f9"].where(rng.random(size) < 0.02)
    stamps = pd.Timestamp("2026-01-05", tz="UTC") + pd.to_timedelta(np.arange(size) // rows, unit="D")
    return frame.assign(event_timestamp=stamps)


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    return Baseline.of(sample(0, 10), COLUMNS)


def test_day_of_the_same_population_has_not_drifted(baseline: Baseline) -> None:
    verdicts = [baseline.compare(sample(seed, 1)) for seed in range(1, 6)]
    assert [verdict.drifted for verdict in verdicts] == [False] * 5


def test_new_pattern_in_two_columns_is_drift_and_names_them(baseline: Baseline, tmp_path: Path) -> None:
    window = sample(9, 1)
    window.loc[window.index[:60], ["f2", "f5"]] = 12.0  # one payment in seven behaves anew
    verdict = baseline.compare(window, tmp_path / "report.html")
    assert verdict.drifted
    assert set(verdict.farthest()) == {"f2", "f5"}
    assert (tmp_path / "report.html").stat().st_size > 100_000


def test_hardly_defined_column_is_left_out(baseline: Baseline) -> None:
    assert "f9" not in baseline.compare(sample(2, 1)).columns


def test_window_too_small_to_judge_is_no_drift(baseline: Baseline) -> None:
    verdict = baseline.compare(sample(3, 1, rows=50))
    assert (verdict.share, verdict.drifted, verdict.columns) == (0.0, False, {})
