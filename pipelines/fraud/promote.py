"""The gates: a challenger becomes champion only if nothing speaks against it, and every verdict is written down.

    verdict = promote(settings)
    better      passed   average precision 0.912 against 0.388 of version 1 on 1,923 payments with 62 frauds; …
    calibrated  passed   calibration error 0.0041, at most 0.0200
    …

The judging slice is the newest labelled one, kept with the version when it was trained; the version never learnt from
it. The verdicts become tags of the version (`gate.better: passed: …`), whether it is promoted or refused.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.fraud.dataset import Dataset
from pipelines.fraud.evaluate import average_precision, better, costs_of
from pipelines.fraud.train import holdout
from whiteboard.errors import ModelError
from whiteboard.fraud.decision import CostTable
from whiteboard.fraud.events import SYSTEM
from whiteboard.fraud.features import LARGE_AMOUNT
from whiteboard.fraud.metrics import calibration_error, cost_per_1000
from whiteboard.fraud.model import FraudModel
from whiteboard.registry import CHALLENGER, CHAMPION, Registry, VersionRef
from whiteboard.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

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
class Gate:
    """One verdict, its reason in words and the figures behind it."""

    name: str
    passed: bool
    reason: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """All gates of one version, and what came of it."""

    version: str
    champion: str | None  # the version it was compared with
    gates: list[Gate]

    @property
    def promoted(self) -> bool:
        return all(gate.passed for gate in self.gates)

    @property
    def reason(self) -> str:
        """Why it was refused; what carried it if it was promoted."""
        decisive = [g for g in self.gates if not g.passed] or self.gates[:1]
        return "; ".join(f"{gate.name}: {gate.reason}" for gate in decisive)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "promoted": self.promoted, "reason": self.reason}

    def as_table(self) -> "Table":
        """The gates as a table for people."""
        from rich.table import Table

        outcome = "promoted to @champion" if self.promoted else "refused"
        table = Table("gate", "verdict", "reason", title=f"Version {self.version}: {outcome}", title_justify="left")
        for gate in self.gates:
            table.add_row(gate.name, "[green]passed" if gate.passed else "[red]failed", gate.reason)
        return table


def promote(
    settings: Settings,
    version: str | None = None,
    *,
    parity_mismatches: int | None = None,
    limits: Limits | None = None,
) -> Verdict:
    """Lets `version` (default: the challenger) through the gates to @champion, or refuses it; records the verdicts.

    `parity_mismatches` is the monitor's count of decisions whose features could not be recomputed equally; by default
    what it wrote last. A refused version loses @challenger. Raises ModelError when there is no such version.
    """
    registry = Registry(settings)
    ref = registry.version(SYSTEM, version) if version else registry.challenger(SYSTEM)
    if ref is None:
        raise ModelError(f"there is no version {version or '@challenger'} of {SYSTEM}; train one first")
    champion = registry.champion(SYSTEM)
    if champion is not None and champion.version == ref.version:
        raise ModelError(f"version {ref.version} is the champion already; train a new one to compare with it")
    if parity_mismatches is None:
        parity_mismatches = last_parity(settings)
    verdict = judge(registry, ref, champion, parity_mismatches, limits or Limits())
    outcome = "promoted" if verdict.promoted else "refused"
    tags = {f"gate.{g.name}": f"{'passed' if g.passed else 'failed'}: {g.reason}" for g in verdict.gates}
    registry.tag(ref, tags | {"gates": outcome, "gates.reason": verdict.reason})
    if verdict.promoted:
        registry.set_alias(SYSTEM, CHAMPION, ref.version)
    challenger = registry.challenger(SYSTEM)
    if challenger is not None and challenger.version == ref.version:
        registry.remove_alias(SYSTEM, CHALLENGER)
    return verdict


def judge(
    registry: Registry, ref: VersionRef, champion: VersionRef | None, parity_mismatches: int | None, limits: Limits
) -> Verdict:
    """The verdict on `ref` against `champion`, nothing changed."""
    folder = registry.download(ref)
    model, rows = FraudModel.load(folder), holdout(folder)
    rival = FraudModel.load(registry.download(champion)) if champion else None
    mine = model.predict(rows.matrix())
    theirs = rival.predict(_matrix(rows, rival)) if rival else None
    rival_cost = None
    if rival is not None and theirs is not None:  # at its own thresholds, by the challenger's costs
        rival_cost = _per_1000(rows, costs_of(rival, theirs, rows, model.costs))
    gates = [
        _better(rows, mine, theirs, champion, limits),
        _calibrated(rows, mine, theirs, limits),
        _cheaper(rows, _per_1000(rows, costs_of(model, mine, rows)), rival_cost, model.costs, limits),
        _parity(parity_mismatches),
        _latency(rows, model, limits),
        _segments(rows, mine, theirs, limits),
    ]
    return Verdict(ref.version, champion.version if champion else None, gates)


def last_parity(settings: Settings) -> int | None:
    """Mismatches that the monitor has found so far, None when it has not checked anything yet."""
    try:
        lines = (settings.monitor_dir / SYSTEM / "windows.jsonl").read_text().splitlines()
    except OSError:
        return None
    return sum(json.loads(line)["parity"]["mismatched"] for line in lines) if lines else None


def _matrix(rows: Dataset, model: FraudModel) -> Floats:
    missing = [name for name in model.features if name not in rows.frame]
    if missing:
        raise ModelError(f"the champion reads features that are no longer computed: {', '.join(missing)}")
    return np.ascontiguousarray(rows.frame[list(model.features)].to_numpy(dtype=np.float64))


def _better(rows: Dataset, mine: Floats, theirs: Floats | None, champion: VersionRef | None, limits: Limits) -> Gate:
    ours = average_precision(rows, mine)
    if theirs is None or champion is None:
        random = float(rows.weight @ rows.is_fraud / rows.weight.sum())
        reason = (
            f"average precision {ours:.3f}, {ours / random:.0f} times that of a random ranking ({random:.3f}), "
            f"at least {limits.over_random:g} times"
        )
        figures = {"average_precision": ours, "random": random}
        return Gate("better", ours >= limits.over_random * random, reason, figures)
    other, probability = average_precision(rows, theirs), better(rows, mine, theirs)
    reason = (
        f"average precision {ours:.3f} against {other:.3f} of version {champion.version} on {len(rows):,} payments "
        f"with {rows.is_fraud.sum():.0f} frauds; better with probability {probability:.2f}, at least {limits.better:g}"
    )
    figures = {"average_precision": ours, "champion": other, "probability": probability}
    return Gate("better", probability >= limits.better, reason, figures)


def _calibrated(rows: Dataset, mine: Floats, theirs: Floats | None, limits: Limits) -> Gate:
    ours, *others = (_calibration_error(rows, p) for p in (mine, theirs) if p is not None)
    most = max(limits.calibration_error, *others) if others else limits.calibration_error
    reason = f"calibration error {ours:.4f}, at most {most:.4f}"
    return Gate("calibrated", ours <= most, reason, {"error": ours, "limit": most})


def _calibration_error(rows: Dataset, probability: Floats) -> float:
    return calibration_error(rows.is_fraud, probability, weight=rows.weight)


def _cheaper(rows: Dataset, ours: float, champion: float | None, costs: CostTable, limits: Limits) -> Gate:
    nothing = _per_1000(rows, costs.approve(rows.is_fraud, rows.amount))
    most = nothing if champion is None else min(nothing, limits.cost * champion)
    reason = f"costs {ours:.0f} per 1,000 payments, at most {most:.0f}; approving everything costs {nothing:.0f}"
    figures = {"cost_per_1000": ours, "approving_everything": nothing}
    return Gate("cheaper", ours <= most, reason, figures | ({} if champion is None else {"champion": champion}))


def _per_1000(rows: Dataset, cost: Floats) -> float:
    return cost_per_1000(cost, rows.weight)


def _parity(mismatches: int | None) -> Gate:
    if mismatches is None:
        return Gate("parity", True, "no decisions to compare yet")
    return Gate("parity", mismatches == 0, f"{mismatches} decisions differ from their recomputation, at most 0")


def _latency(rows: Dataset, model: FraudModel, limits: Limits) -> Gate:
    payments = rows.matrix()[:2000].tolist()
    times = []
    for values in payments:
        began = time.perf_counter_ns()
        model.predict_one(values)
        times.append((time.perf_counter_ns() - began) / 1e6)
    half, most = np.percentile(times, [50, 99])
    reason = f"one prediction takes {half:.3f} ms, 99th percentile {most:.3f} ms, at most {limits.latency_ms:g}"
    return Gate("latency", bool(most <= limits.latency_ms), reason, {"p50_ms": float(half), "p99_ms": float(most)})


def segments(rows: Dataset) -> dict[str, NDArray[np.bool_]]:
    """Groups of payments that must not be left behind, as masks over `rows`."""
    frame: pd.DataFrame = rows.frame
    return {
        "large amounts": (frame["amount"] > LARGE_AMOUNT).to_numpy(),
        "ordinary amounts": (frame["amount"] <= LARGE_AMOUNT).to_numpy(),
        "night": (frame["is_night"] == 1).to_numpy(),
        "weekend": (frame["is_weekend"] == 1).to_numpy(),
        "quiet cards": (frame["customer_count_30d"] < 15).to_numpy(),  # less than a payment in two days
        "terminals with known frauds": (frame["terminal_fraud_count_28d"] > 0).to_numpy(),
        "terminals without": (frame["terminal_fraud_count_28d"] == 0).to_numpy(),
    }


def _segments(rows: Dataset, mine: Floats, theirs: Floats | None, limits: Limits) -> Gate:
    figures, fallen = {}, []
    for name, mask in segments(rows).items():
        part = rows.where(mask)
        if part.is_fraud.sum() < limits.segment_frauds or part.is_fraud.all():
            continue
        figures[name] = average_precision(part, mine[mask])
        if theirs is None:
            continue
        drop = average_precision(part, theirs[mask]) - figures[name]
        if drop > limits.segment_drop:
            certainty = better(part, theirs[mask], mine[mask])
            if certainty >= limits.segment_certainty:
                fallen.append(f"{name} by {drop:.3f} to {figures[name]:.3f} (probability {certainty:.2f})")
    if fallen:
        return Gate("segments", False, f"average precision falls for {', '.join(fallen)}", figures)
    worst = min(figures, key=lambda name: figures[name], default=None)
    weakest = f"; weakest: {worst} with {figures[worst]:.3f}" if worst else ""
    return Gate("segments", True, f"{len(figures)} segments compared, none much worse{weakest}", figures)
