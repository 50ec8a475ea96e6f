"""The gates that stand before @champion: each looks at one thing and gives a verdict with its figures in words.

Gate("better", True, "average precision 0.912 against 0.388 of version 1 on 1,923 payments with 62 frauds; …")
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipelines.fraud.dataset import Dataset
from pipelines.fraud.evaluate import average_precision, better, costs_of
from whiteboard.errors import ModelError
from whiteboard.fraud.features import LARGE_AMOUNT
from whiteboard.fraud.metrics import calibration_error, cost_per_1000
from whiteboard.fraud.model import FraudModel
from whiteboard.promotion import Gate, latency, parity

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """What each gate asks for.

    `better`: the probability that the challenger outranks the champion. Two models of equal worth pass with 0.5, so
    0.8 is beyond noise one-sidedly. The usual 0.95 would want some .05 of average precision from a slice with 40
    frauds and keep a stale model serving for weeks; a promotion that was luck costs little, as the next slice judges
    again.
    """

    better: float = 0.8
    over_random: float = 5.0  # the first version: times the average precision of a random ranking
    calibration_error: float = 0.02  # mean |predicted - observed|; or that of the champion if it is larger
    cost: float = 1.1  # times the cost of the champion, or of approving everything
    latency_ms: float = 1.0  # 99th percentile of one prediction: a fraction of what the feature read takes
    segment_drop: float = 0.1  # of average precision within a segment …
    segment_certainty: float = 0.9  # … with this probability that there is a drop at all
    segment_frauds: int = 8  # segments with fewer say nothing


@dataclass(frozen=True)
class Contestant:
    """A version with its model and the probabilities it gives to the judging slice."""

    version: str
    model: FraudModel
    risk: Floats

    @classmethod
    def on(cls, rows: Dataset, version: str, model: FraudModel) -> "Contestant":
        """The version as it scores `rows`; ModelError if it reads features that `rows` lacks."""
        missing = [name for name in model.features if name not in rows.frame]
        if missing:
            raise ModelError(f"version {version} reads features that are no longer computed: {', '.join(missing)}")
        matrix = np.ascontiguousarray(rows.frame[list(model.features)].to_numpy(dtype=np.float64))
        return cls(version, model, model.predict(matrix))


def all_gates(
    rows: Dataset, ours: Contestant, champion: Contestant | None, parity_mismatches: int | None, limits: Limits
) -> list[Gate]:
    """Every gate's verdict on `ours`, judged on `rows`; without a `champion` against a random ranking."""
    return [
        _better(rows, ours, champion, limits) if champion else _better_than_random(rows, ours, limits),
        _calibrated(rows, ours, champion, limits),
        _cheaper(rows, ours, champion, limits),
        parity(parity_mismatches),
        _latency(rows, ours.model, limits),
        _segments(rows, ours, champion, limits),
    ]


def _better_than_random(rows: Dataset, ours: Contestant, limits: Limits) -> Gate:
    reached, random = average_precision(rows, ours.risk), float(rows.weight @ rows.is_fraud / rows.weight.sum())
    reason = (
        f"average precision {reached:.3f}, {reached / random:.0f} times that of a random ranking ({random:.3f}), "
        f"at least {limits.over_random:g} times"
    )
    figures = {"average_precision": reached, "random": random}
    return Gate("better", reached >= limits.over_random * random, reason, figures)


def _better(rows: Dataset, ours: Contestant, champion: Contestant, limits: Limits) -> Gate:
    reached, other = (average_precision(rows, contestant.risk) for contestant in (ours, champion))
    probability = better(rows, ours.risk, champion.risk)
    reason = (
        f"average precision {reached:.3f} against {other:.3f} of version {champion.version} on {len(rows):,} payments "
        f"with {rows.is_fraud.sum():.0f} frauds; better with probability {probability:.2f}, at least {limits.better:g}"
    )
    figures = {"average_precision": reached, "champion": other, "probability": probability}
    return Gate("better", probability >= limits.better, reason, figures)


def _calibrated(rows: Dataset, ours: Contestant, champion: Contestant | None, limits: Limits) -> Gate:
    error, *others = (
        calibration_error(rows.is_fraud, contestant.risk, weight=rows.weight)
        for contestant in (ours, champion)
        if contestant is not None
    )
    most = max(limits.calibration_error, *others) if others else limits.calibration_error
    reason = f"calibration error {error:.4f}, at most {most:.4f}"
    return Gate("calibrated", error <= most, reason, {"error": error, "limit": most})


def _cheaper(rows: Dataset, ours: Contestant, champion: Contestant | None, limits: Limits) -> Gate:
    costs = ours.model.costs  # each version decides at its own thresholds and pays by the same table
    spent, *others = (
        cost_per_1000(costs_of(contestant.model, contestant.risk, rows, costs), rows.weight)
        for contestant in (ours, champion)
        if contestant is not None
    )
    nothing = cost_per_1000(costs.approve(rows.is_fraud, rows.amount), rows.weight)
    most = min(nothing, *(limits.cost * other for other in others)) if others else nothing
    reason = f"costs {spent:.0f} per 1,000 payments, at most {most:.0f}; approving everything costs {nothing:.0f}"
    return Gate("cheaper", spent <= most, reason, {"cost": spent, "limit": most, "approving_everything": nothing})


def _latency(rows: Dataset, model: FraudModel, limits: Limits) -> Gate:
    payments = rows.matrix()[:1000].tolist()
    return latency([partial(model.predict_one, values) for values in payments], "one prediction", limits.latency_ms)


def segments(rows: Dataset) -> dict[str, NDArray[np.bool_]]:
    """Groups of payments that must not be left behind, as masks over `rows`."""
    frame = rows.frame
    return {
        "large amounts": (frame["amount"] > LARGE_AMOUNT).to_numpy(),
        "ordinary amounts": (frame["amount"] <= LARGE_AMOUNT).to_numpy(),
        "night": (frame["is_night"] == 1).to_numpy(),
        "weekend": (frame["is_weekend"] == 1).to_numpy(),
        "quiet cards": (frame["customer_count_30d"] < 15).to_numpy(),  # less than a payment in two days
        "terminals with known frauds": (frame["terminal_fraud_count_28d"] > 0).to_numpy(),
        "terminals without": (frame["terminal_fraud_count_28d"] == 0).to_numpy(),
    }


def _segments(rows: Dataset, ours: Contestant, champion: Contestant | None, limits: Limits) -> Gate:
    figures: dict[str, float] = {}
    fallen = []
    for name, mask in segments(rows).items():
        part = rows.where(mask)
        if part.is_fraud.sum() < limits.segment_frauds or part.is_fraud.all():
            continue
        figures[name] = average_precision(part, ours.risk[mask])
        if champion is None or average_precision(part, champion.risk[mask]) - figures[name] <= limits.segment_drop:
            continue
        certainty = better(part, champion.risk[mask], ours.risk[mask])
        if certainty >= limits.segment_certainty:
            fallen.append(f"{name} (to {figures[name]:.3f}, with probability {certainty:.2f})")
    if fallen:
        return Gate("segments", False, f"average precision falls for {', '.join(fallen)}", figures)
    worst = min(figures, key=lambda name: figures[name], default=None)
    weakest = f"; weakest: {worst} with {figures[worst]:.3f}" if worst else ""
    return Gate("segments", True, f"{len(figures)} segments compared, none much worse{weakest}", figures)
