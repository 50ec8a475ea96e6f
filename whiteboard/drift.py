"""Has the traffic changed? A window of live features is compared with the champion's reference sample.

    baseline = Baseline.of(reference, columns)
    verdict = baseline.compare(window, html=Path("2026-03-05.html"))
    DriftVerdict(rows=1042, columns={"customer_count_1h": ColumnDrift(score=0.44, threshold=0.23), …}, limit=0.05)

The distance is the Wasserstein distance in standard deviations of the reference: Evidently's "wasserstein" method, and
Evidently's page shows the day. A distance is an effect, not a p-value: it does not call every difference significant
once there are enough rows. What distance is normal depends on the column and on the traffic, so each column's threshold
is calibrated on the reference itself: how far does a day lie from the other days?

Chosen on 28 simulated worlds of 500 cards (a reference of 6 days, then 45 live days of some 950 payments): 0.9 % of the
days without a change are called drifted, and a new pattern in 3 % of the payments is seen after 2 days in the median, 6
at most. With Evidently's threshold of 0.1 for every column, 84 % of the days without a change would be.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

LEAST_THRESHOLD = 0.2  # standard deviations: by convention (Cohen 1988) the least effect that is called small
MARGIN = 2.0  # beyond the farthest day of the reference: some six days do not show how far a day can lie
SHARE_LIMIT = 0.05  # of the columns: one of thirty may wander off by chance, a new pattern moves several
REFERENCE_ROWS = 2_000
LEAST_ROWS = 100  # of a window
LEAST_VALUES = 50  # of a column; fewer lie anywhere


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
    """What normal looks like: a reference sample, and a threshold for each of its columns.

    The thresholds are those of windows of `rows` rows; chance alone carries a smaller window farther.
    """

    reference: pd.DataFrame
    thresholds: dict[str, float]
    rows: int

    @classmethod
    def of(cls, reference: pd.DataFrame, columns: Sequence[str], seed: int = 0) -> "Baseline":
        """The baseline of a reference sample with `event_timestamp`; each of its days is held against the others.

        A reference without two whole days is cut into five random parts, which only shows the noise within a day.
        """
        usable = [c for c in columns if reference[c].count() >= LEAST_VALUES]
        values = reference[usable].astype(float)
        dates = reference["event_timestamp"].dt.date.to_numpy()
        parts = [dates == day for day in pd.unique(dates) if (dates == day).sum() >= LEAST_ROWS]
        if len(parts) == 1 or not parts:
            fifth = np.random.default_rng(seed).integers(0, 5, len(values))
            parts = [fifth == i for i in range(5)]
        thresholds = {
            c: max(LEAST_THRESHOLD, MARGIN * max(distance(values[c][~part], values[c][part]) for part in parts))
            for c in usable
        }
        sample = values.sample(min(len(values), REFERENCE_ROWS), random_state=seed)
        return cls(sample, thresholds, int(np.median([part.sum() for part in parts])))

    def compare(self, window: pd.DataFrame, html: Path | None = None, limit: float = SHARE_LIMIT) -> DriftVerdict:
        """The verdict on a window; Evidently's page of it is kept at `html`. Below LEAST_ROWS rows nothing is compared.

        A column with too few values to compare is left out, unless the reference says that it should have many: then
        what is compared is how many rows have a value at all.
        """
        if len(window) < LEAST_ROWS:
            return DriftVerdict(len(window), {}, limit)
        wider = max(1.0, (self.rows / len(window)) ** 0.5)  # the distance by chance falls with the root of the rows
        expected = self.reference.notna().mean() * len(window)
        columns = [c for c in self.thresholds if window[c].count() >= LEAST_VALUES]
        drifts = {
            c: ColumnDrift(_presence_distance(self.reference[c], window[c]), LEAST_THRESHOLD * wider)
            for c in self.thresholds.keys() - set(columns)
            if expected[c] >= 2 * LEAST_VALUES
        }
        thresholds = {c: self.thresholds[c] * wider for c in columns}
        drifts |= {c: ColumnDrift(distance(self.reference[c], window[c]), thresholds[c]) for c in columns}
        verdict = DriftVerdict(len(window), drifts, limit)
        if html is not None and columns:
            self._write_page(window[columns].astype(float), verdict, html)
        return verdict

    def _write_page(self, window: pd.DataFrame, verdict: DriftVerdict, html: Path) -> None:
        """Evidently's page: its count over all columns of `window`, its plot for each that drifted.

        A plot costs 70 ms of CPU and its preset draws two of each column, which made up most of what a monitor did.
        """
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import DriftedColumnsCount, ValueDrift

        thresholds = {str(c): verdict.columns[str(c)].threshold for c in window}
        count = DriftedColumnsCount(
            num_method="wasserstein", per_column_threshold=thresholds, drift_share=verdict.limit
        )
        plots = [
            ValueDrift(column=c, method="wasserstein", threshold=thresholds[c])
            for c in verdict.farthest(len(verdict.columns))
            if c in thresholds
        ]
        definition = DataDefinition(numerical_columns=list(window.columns))
        reference = Dataset.from_pandas(self.reference[window.columns], definition)
        page = Report([count, *plots]).run(Dataset.from_pandas(window, definition), reference)
        html.parent.mkdir(parents=True, exist_ok=True)
        page.save_html(str(html))


def _presence_distance(reference: "pd.Series[float]", current: "pd.Series[float]") -> float:
    return distance(reference.notna().astype(float), current.notna().astype(float))


def distance(reference: "pd.Series[float]", current: "pd.Series[float]") -> float:
    """The Wasserstein distance of two samples in standard deviations of the first, NaN left out; 0 for an empty one."""
    from scipy.stats import wasserstein_distance

    a, b = reference.dropna().to_numpy(dtype=float), current.dropna().to_numpy(dtype=float)
    if not len(a) or not len(b):
        return 0.0
    return float(wasserstein_distance(a, b) / max(np.std(a), 0.001))  # Evidently's floor for a constant column
