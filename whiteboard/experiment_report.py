"""What came of an experiment: every metric with its intervals, what the guardrails say, and the decision, written down.

found = judge(experiment, outcomes)          # outcomes: a row a unit: unit_id, arm, exposed_at, a column a measure
found.verdict                                # "launch", "stop", "continue", "no difference" or "invalid"
write(found, folder)                         # decision.json, report.md, effect.png

invalid         the arms hold other shares of the units than declared: something is broken, nothing may be read
stop            a guardrail is broken, by an interval that holds at any time: at once
launch          the metric rose, by the same kind of interval or, at the horizon, by the fixed test; guardrails hold
no difference   the horizon is reached and the metric has not risen
continue        none of these yet
"""

import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whiteboard.errors import ExperimentError
from whiteboard.experiment import Experiment, Metric
from whiteboard.experiment_statistics import (
    IMBALANCED,
    Effect,
    always_valid,
    fixed,
    imbalance,
    sample_size,
    unit_values,
)
from whiteboard.manifest import write_atomically
from whiteboard.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

Kind = Literal["launch", "stop", "continue", "no difference", "invalid"]
LOOKS = 30  # points of the plot


@dataclass(frozen=True)
class Reading:
    """One metric of one treatment arm against the control, by both tests; `margin` is that of a guardrail."""

    metric: str
    arm: str
    fixed: Effect
    sequential: Effect
    margin: float | None = None

    @property
    def broken(self) -> bool:
        """Whether the guardrail is certainly broken: all of the always-valid interval lies below the margin."""
        return self.margin is not None and self.sequential.high < -self.margin * abs(self.sequential.control)

    def holds(self, at_horizon: bool) -> bool:
        """Whether a fall below the margin is ruled out: by the fixed interval at the horizon, else by the other one."""
        effect = self.fixed if at_horizon else self.sequential
        return self.margin is None or effect.low > -self.margin * abs(effect.control)


@dataclass(frozen=True)
class Decision:
    """All readings, and what follows. `looks` are (share of the units, effect, low, high) of the first treatment."""

    experiment: str
    verdict: Kind
    reason: str
    units: dict[str, int]
    planned_units: int
    imbalance: float
    readings: list[Reading]
    looks: list[tuple[str, float, float, float]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_table(self) -> "Table":
        """The readings as a table for people."""
        from rich.table import Table

        title = f"Experiment {self.experiment}: {self.verdict} — {self.reason}"
        table = Table("metric", "arm", "control", "treatment", "change", "95 % at the horizon", "95 % at any time",
                      title=title, title_justify="left")  # fmt: skip
        for r in self.readings:
            name = r.metric if r.margin is None else f"{r.metric} (guardrail, -{r.margin:.0%})"
            change = f"{r.fixed.relative(r.fixed.difference):+.1%}"
            table.add_row(name, r.arm, f"{r.fixed.control:.4g}", f"{r.fixed.treatment:.4g}", change,
                          _interval(r.fixed), _interval(r.sequential))  # fmt: skip
        units = ", ".join(f"{arm} {count:,}" for arm, count in self.units.items())
        table.caption = f"units: {units} (planned {self.planned_units:,} each); balance p = {self.imbalance:.3f}"
        return table


def judge(experiment: Experiment, outcomes: pd.DataFrame) -> Decision:
    """The decision on what is known so far. Raises ExperimentError for outcomes without units or with unknown arms.

    With several treatments each is compared with the control at alpha divided by their number (Bonferroni).
    """
    counts = {arm: int((outcomes["arm"] == arm).sum()) for arm in experiment.arms}
    if strange := sorted(set(outcomes["arm"]) - set(experiment.arms)):
        raise ExperimentError(f"experiment {experiment.name} has no arm {', '.join(strange)}; it has {list(counts)}")
    if not min(counts.values()):
        raise ExperimentError(f"experiment {experiment.name}: units by arm are {counts}; wait until each arm has some")
    ordered = outcomes.sort_values("exposed_at", kind="stable", ignore_index=True)
    balance = imbalance(counts, experiment.arms)
    treatments = list(experiment.arms)[1:]
    alpha = experiment.alpha / len(treatments)
    primary = [_read(experiment, ordered, experiment.metric, arm, alpha) for arm in treatments]
    rails = [
        _read(experiment, ordered, rail.metric, arm, alpha, rail.margin)
        for rail in experiment.guardrails
        for arm in treatments
    ]
    verdict, reason = _verdict(experiment, counts, balance, primary, rails)
    looks = _looks(experiment, ordered, treatments[0], alpha)
    return Decision(experiment.name, verdict, reason, counts, experiment.units, balance, primary + rails, looks)


def _read(
    experiment: Experiment,
    outcomes: pd.DataFrame,
    metric: Metric,
    arm: str,
    alpha: float,
    margin: float | None = None,
) -> Reading:
    chosen = outcomes[outcomes["arm"].isin([arm, experiment.control])]
    values, treated = unit_values(chosen, metric), (chosen["arm"] == arm).to_numpy()
    treatment, control = values[treated], values[~treated]
    scale = experiment.minimum_effect * abs(float(control.mean()))
    both = fixed(treatment, control, alpha), always_valid(treatment, control, alpha, scale)
    return Reading(metric.name, arm, *both, margin=margin)


def _verdict(
    experiment: Experiment, counts: dict[str, int], balance: float, primary: list[Reading], rails: list[Reading]
) -> tuple[Kind, str]:
    if balance < IMBALANCED:
        declared = ", ".join(f"{arm} {share:.0%}" for arm, share in experiment.arms.items())
        return "invalid", f"units are {counts}, declared were {declared} (p = {balance:.1g}); find what loses units"
    if broken := [r for r in rails if r.broken]:
        worst = broken[0]
        return "stop", f"{worst.metric} of {worst.arm} is {_range(worst.sequential)}, beyond its guardrail"
    if fallen := [r for r in primary if r.sequential.high < 0]:
        return "stop", f"{fallen[0].metric} of {fallen[0].arm} fell: {_range(fallen[0].sequential)} at any time"
    over = min(counts.values()) >= experiment.units
    risen = [r for r in primary if r.sequential.low > 0 or (over and r.fixed.low > 0)]
    arms_held = {r.arm for r in risen} - {rail.arm for rail in rails if not rail.holds(over)}
    if winners := [r for r in risen if r.arm in arms_held]:
        best = max(winners, key=lambda r: r.fixed.difference)
        seen = best.sequential if best.sequential.low > 0 else best.fixed
        return "launch", f"{best.metric} of {best.arm} rose: {_range(seen)}; guardrails hold"
    if over:
        return "no difference", f"{experiment.metric.name} has not risen with all {experiment.units:,} units an arm"
    return "continue", f"{min(counts.values()):,} of {experiment.units:,} units an arm are in"


def _looks(
    experiment: Experiment, outcomes: pd.DataFrame, arm: str, alpha: float
) -> list[tuple[str, float, float, float]]:
    """The relative effect with its always-valid interval as it stood over time, for the plot."""
    found: list[tuple[str, float, float, float]] = []
    for end in np.unique(np.linspace(0, len(outcomes), LOOKS + 1).astype(int)[1:]):
        part = outcomes.iloc[:end]
        if {arm, experiment.control} - set(part["arm"]):
            continue
        try:
            seen = _read(experiment, part, experiment.metric, arm, alpha).sequential
        except ExperimentError:  # no denominator yet
            continue
        if isfinite(seen.low):
            at = pd.Timestamp(part["exposed_at"].iloc[-1]).isoformat()
            effect, low, high = (seen.relative(value) for value in (seen.difference, seen.low, seen.high))
            found.append((at, effect, low, high))
    return found


def required_units(outcomes: pd.DataFrame, metric: Metric, minimum_effect: float, *, power: float = 0.8) -> int:
    """Units an arm that find a relative effect of that size, by what units did before: one arm of past outcomes."""
    values = unit_values(outcomes, metric)
    return sample_size(float(values.std(ddof=1)), minimum_effect * float(values.mean()), power=power)


def decided(settings: Settings, name: str) -> dict[str, Any] | None:
    """What `write` wrote last of the experiment into this home; None for one that was never judged."""
    try:
        return dict(json.loads((settings.home / "experiments" / name / "decision.json").read_text()))
    except FileNotFoundError:
        return None


def write(decision: Decision, folder: Path) -> Path:
    """Writes decision.json, report.md and effect.png into `folder`; returns the report's path."""
    folder.mkdir(parents=True, exist_ok=True)
    if decision.looks:
        from whiteboard.plots import save

        save(_draw(decision), folder / "effect.png")
    write_atomically(folder / "decision.json", json.dumps(decision.as_dict(), indent=1))
    lines = [f"# Experiment {decision.experiment}: {decision.verdict}", "", f"{decision.reason}.", ""]
    lines += [
        "| metric | arm | control | treatment | change | at the horizon | at any time |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in decision.readings:
        change = f"{r.fixed.relative(r.fixed.difference):+.2%}"
        figures = f"{r.fixed.control:.5g} | {r.fixed.treatment:.5g} | {change} | {_interval(r.fixed)}"
        lines.append(f"| {r.metric} | {r.arm} | {figures} | {_interval(r.sequential)} |")
    lines += ["", f"Units by arm: {decision.units}, planned {decision.planned_units:,} each.",
              f"Sample ratios: p = {decision.imbalance:.3f}.", "", "![effect](effect.png)", ""]  # fmt: skip
    write_atomically(folder / "report.md", "\n".join(lines))
    return folder / "report.md"


def _draw(decision: Decision) -> Any:
    from whiteboard.plots import BLUE, QUIET, canvas

    at = pd.DatetimeIndex([look[0] for look in decision.looks])
    effect, low, high = (np.array([look[i] for look in decision.looks]) * 100 for i in (1, 2, 3))
    arm = decision.readings[0].arm
    figure, axes = canvas(f"{decision.experiment}: {arm} against control", "exposed until", "change in %")
    axes.fill_between(at, low, high, color=BLUE, alpha=0.15, linewidth=0, label="always-valid interval")
    axes.plot(at, effect, color=BLUE, label=decision.readings[0].metric)
    axes.axhline(0, color=QUIET, linewidth=1)
    span = float(np.nanmax(np.abs(effect[len(effect) // 4 :]))) if len(effect) else 1.0
    axes.set_ylim(-max(30.0, 3 * span), max(30.0, 3 * span))
    figure.autofmt_xdate()
    axes.legend(frameon=False)
    return figure


def matured(exposures: pd.DataFrame, until: pd.Timestamp, window_days: float) -> pd.DataFrame:
    """The first exposure of each unit whose window is over at `until`: only those units are compared.

    A unit that was seen in two arms is left out altogether, and told of by the sample ratios if there are many.
    """
    first = exposures.sort_values("exposed_at", kind="stable").drop_duplicates(["unit_id", "arm"])
    once: NDArray[np.bool_] = ~first["unit_id"].duplicated(keep=False).to_numpy()
    over = (first["exposed_at"] + timedelta(days=window_days) <= until).to_numpy()
    return first[once & over].reset_index(drop=True)


def _range(effect: Effect) -> str:
    return f"{effect.relative(effect.low):+.1%} to {effect.relative(effect.high):+.1%}"


def _interval(effect: Effect) -> str:
    return _range(effect) if isfinite(effect.low) else "–"
