"""Has the traffic changed? Evidently compares a window of live features with the champion's reference sample.

    baseline = Baseline.of(reference, columns)
    verdict = baseline.compare(window, html=Path("2026-03-05.html"))
    DriftVerdict(share=0.31, limit=0.05, rows=1042, columns={"is_night": ColumnDrift(score=0.21, threshold=0.1), …})

The distance is the Wasserstein distance in standard deviations of the reference (Evidently's "wasserstein" method).
Evidently's default threshold of 0.1 is right for some columns and absurd for others (a heavy tail, a day of the week),
so each column's threshold is calibrated on the reference itself: how far its single days lie from all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

LEAST_THRESHOLD = 0.1  # Evidently's default for this distance
MARGIN = 1.5  # beyond the farthest day of the reference: some ten days do not show how far a day can lie
SHARE_LIMIT = 0.05  # of the columns: one of thirty may wander off by chance, a new pattern moves several
REFERENCE_ROWS = 2_000
LEAST_ROWS = 100


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """Distance of a column in standard deviations of the reference, and the distance from which on it has drifted."""

    score: float
    threshold: float

    @property
    def drifted(self) -> bool:
        """Whether the column has drifted."""
        return self.score > self.threshold


@dataclass(frozen=True, slots=True)
class DriftVerdict:
    """The share of columns that drifted; above the limit, the window has."""

    rows: int
    columns: dict[str, ColumnDrift] = field(default_factory=dict)
    limit: float = SHARE_LIMIT

    @property
    def share(self) -> float:
        """The share of columns that drifted; 0 when none could be compared."""
        return sum(c.drifted for c in self.columns.values()) / len(self.columns) if self.columns else 0.0

    @property
    def drifted(self) -> bool:
        """Whether the window as a whole has drifted."""
        return self.share > self.limit

    def farthest(self, count: int = 3) -> list[str]:
        """The columns farthest beyond their thresholds, farthest first."""
        ranked = sorted(self.columns.items(), key=lambda item: item[1].score / item[1].threshold, reverse=True)
        return [name for name, column in ranked[:count] if column.drifted]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What normal looks like: a reference sample and a threshold for each of its columns."""

    reference: pd.DataFrame
    thresholds: dict[str, float]

    @classmethod
    def of(cls, reference: pd.DataFrame, columns: Sequence[str], seed: int = 0) -> "Baseline":
        """The baseline of a reference sample with `event_timestamp`; each of its days is held against the whole."""
        sample = reference.sample(min(len(reference), REFERENCE_ROWS), random_state=seed)
        days = [day for _, day in reference.groupby(reference["event_timestamp"].dt.date) if len(day) >= LEAST_ROWS]
        thresholds = {
            column: max(LEAST_THRESHOLD, *(MARGIN * distance(reference[column], day[column]) for day in days))
            if days
            else LEAST_THRESHOLD
            for column in columns
        }
        return cls(sample[list(columns)], thresholds)

    def compare(self, window: pd.DataFrame, html: Path | None = None, limit: float = SHARE_LIMIT) -> DriftVerdict:
        """The verdict on a window; Evidently's report is kept at `html`.

        A column with fewer than LEAST_ROWS defined values is left out: the age of a run of frauds is defined for a
        handful of payments a day.
        """
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        defined = [c for c in self.thresholds if self.reference[c].notna().sum() >= LEAST_ROWS]
        columns = [c for c in defined if window[c].notna().sum() >= LEAST_ROWS]
        if not columns:
            return DriftVerdict(len(window), {}, limit)
        definition = DataDefinition(numerical_columns=columns)
        preset = DataDriftPreset(
            num_method="wasserstein", per_column_threshold={c: self.thresholds[c] for c in columns}, drift_share=limit
        )
        snapshot = Report([preset]).run(
            Dataset.from_pandas(window[columns].astype(float), definition),
            Dataset.from_pandas(self.reference[columns].astype(float), definition),
        )
        if html is not None:
            html.parent.mkdir(parents=True, exist_ok=True)
            snapshot.save_html(str(html))
        scores = {
            metric["config"]["column"]: float(metric["value"])
            for metric in snapshot.dict()["metrics"]
            if "column" in metric["config"]
        }
        return DriftVerdict(len(window), {c: ColumnDrift(scores[c], self.thresholds[c]) for c in columns}, limit)


def distance(reference: "pd.Series[float]", current: "pd.Series[float]") -> float:
    """The Wasserstein distance of two samples in standard deviations of the first, NaN left out; 0 for an empty one."""
    from scipy.stats import wasserstein_distance

    a, b = reference.dropna().to_numpy(dtype=float), current.dropna().to_numpy(dtype=float)
    if not len(a) or not len(b):
        return 0.0
    return float(wasserstein_distance(a, b) / max(np.std(a), 0.001))  # Evidently's floor for a constant column
