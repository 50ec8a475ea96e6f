"""How good a model is on a later slice: each metric with its interval, the random floor and the oracle's ceiling.

    evaluation = evaluate(model, test)
    evaluation.metrics["average_precision"]
    {"value": 0.871, "low": 0.823, "high": 0.910, "floor": 0.009, "ceiling": 1.0}

Declines without a label are missing from every labelled slice; the waived ones stand for them by their weight.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.fraud.dataset import Dataset
from whiteboard.fraud import metrics
from whiteboard.fraud.decision import CostTable, actions, realised_cost
from whiteboard.fraud.metrics import Metric, Report, Scored, dense
from whiteboard.fraud.model import FraudModel

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_DAY_S = 86_400


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name (value, low, high, floor, ceiling), and the slice that they were measured on."""

    metrics: Report
    rows: int
    frauds: int
    days: float

    def flat(self) -> dict[str, float]:
        """Name → number for a run's metrics: `average_precision`, `average_precision_low`, …"""
        flat = {"test_rows": float(self.rows), "test_frauds": float(self.frauds), "test_days": self.days}
        for name, metric in self.metrics.items():
            flat |= {name if part == "value" else f"{name}_{part}": number for part, number in metric.items()}
        return flat

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(model: FraudModel, test: Dataset, *, seed: int = 0) -> Evaluation:
    """The metrics of `model` on `test`, a slice later than all that it learnt from.

    Cost counts the model's own thresholds. Raises NotEnoughDataError without frauds or without honest payments.
    """
    order = np.argsort(-model.predict(test.matrix()), kind="stable")  # the order in which metrics.judge resamples
    rows = Dataset(test.frame.iloc[order], test.as_of, test.counts, test.features)
    ranked = scored(rows, model.predict(rows.matrix()))
    report = metrics.judge(ranked, extra=_metrics(model, rows), draws=metrics.bounded_draws(len(rows)), seed=seed)
    return Evaluation(report, len(rows), int(rows.is_fraud.sum()), days_of(rows))


def _metrics(model: FraudModel, rows: Dataset) -> dict[str, Metric]:
    """The metrics in which a payment counts by its weight; they replace those in which each counts once."""
    weight, kind = rows.weight, metrics
    return {
        "roc_auc": lambda s, copies: kind.roc_auc(s.is_fraud, s.risk, weight * copies[s.card]),
        "average_precision": lambda s, copies: kind.average_precision(s.is_fraud, s.risk, weight * copies[s.card]),
        "cost_per_1000": lambda s, copies: kind.cost_per_1000(costs_of(model, s.risk, rows), weight * copies[s.card]),
        "calibration_error": lambda s, copies: kind.calibration_error(
            s.is_fraud, s.risk, weight=weight * copies[s.card]
        ),
    }


def scored(rows: Dataset, risk: Floats) -> Scored:
    """The payments with a risk, as the metrics take them."""
    day, card = dense(rows.frame["event_timestamp"].dt.floor("D")), dense(rows.frame["customer_id"])
    return Scored(day, card, rows.is_fraud, rows.amount, risk)


def costs_of(model: FraudModel, probability: Floats, rows: Dataset, costs: CostTable | None = None) -> Floats:
    """What deciding by `probability` at the model's thresholds cost on each payment, in account currency."""
    taken = actions(probability, model.thresholds)
    return realised_cost(taken, rows.is_fraud, rows.amount, costs or model.costs)


def average_precision(rows: Dataset, risk: Floats) -> float:
    """The average precision of `risk` on `rows`, each counting by its weight."""
    return metrics.average_precision(rows.is_fraud, risk, rows.weight)


def better(rows: Dataset, risk: Floats, than: Floats, *, seed: int = 0) -> float:
    """The probability that `risk` has a higher average precision on `rows` than `than`; a tie counts half."""
    cards = dense(rows.frame["customer_id"])
    return metrics.outranks(rows.is_fraud, risk, than, card=cards, weight=rows.weight, seed=seed)


def days_of(rows: Dataset) -> float:
    """How many days the slice spans, at least one."""
    at = rows.frame["event_timestamp"]
    return max(1.0, float((at.max() - at.min()).total_seconds()) / _DAY_S)
