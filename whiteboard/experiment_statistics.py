"""The statistics of an experiment: one value a unit, a fixed-horizon test, an always-valid one, sample sizes, balance.

    y = unit_values(outcomes, metric)                         one number a unit, whose mean in an arm is the metric
    fixed(y[treated], y[control], alpha)                      Welch's test, to be read once, when all units are in
    always_valid(y[treated], y[control], alpha, scale)        may be read after every unit

A unit is what was assigned (a user), never what it did (an impression): the clicks of one user are alike, and a test
that counts them as independent finds effects everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, nan, sqrt

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special, stats

from whiteboard.errors import ExperimentError
from whiteboard.experiment import Metric

Floats = NDArray[np.float64]

IMBALANCED = (
    0.001  # p-value below which arms are not what was declared; it is read often, and right experiments are many
)


@dataclass(frozen=True)
class Effect:
    """Treatment against control: the difference of the metric with its interval; `p_value` is two-sided."""

    control: float
    treatment: float
    low: float
    high: float
    p_value: float

    @property
    def difference(self) -> float:
        return self.treatment - self.control

    @property
    def significant(self) -> bool:
        return self.low > 0 or self.high < 0

    def relative(self, value: float) -> float:
        """A difference as a share of the control's value; NaN where that is 0."""
        return value / abs(self.control) if self.control else nan


def unit_values(outcomes: pd.DataFrame, metric: Metric) -> Floats:
    """One value a unit, (n,), whose mean over the units of an arm is the arm's metric.

    For a ratio these are the terms of the delta method: R + (numerator - R · denominator) / mean denominator, with the
    arm's own R (Deng, Knoblich, Lu 2018, "Applying the delta method in metric analytics"). Raises ExperimentError for
    a column that is not there, and for an arm in which the denominator is 0 altogether.
    """
    wanted = [c for c in (metric.numerator, metric.denominator, metric.covariate) if c is not None]
    if missing := [column for column in wanted if column not in outcomes]:
        there = ", ".join(map(str, outcomes.columns))
        raise ExperimentError(f"metric {metric.name} wants {', '.join(missing)}; the outcomes have {there}")
    values = outcomes[metric.numerator].to_numpy(dtype=np.float64)
    if metric.denominator is not None:
        values = _linearised(
            outcomes["arm"].to_numpy(), values, outcomes[metric.denominator].to_numpy(dtype=np.float64)
        )
    if metric.covariate is not None:
        values = cuped(values, outcomes[metric.covariate].to_numpy(dtype=np.float64))
    return values


def _linearised(arms: NDArray[np.object_], numerator: Floats, denominator: Floats) -> Floats:
    values = np.empty(len(numerator))
    for arm in np.unique(arms):
        of = arms == arm
        total = denominator[of].sum()
        if total == 0:
            raise ExperimentError(f"arm {arm}: the denominator is 0 for all of its {of.sum()} units; wait for outcomes")
        ratio = numerator[of].sum() / total
        values[of] = ratio + (numerator[of] - ratio * denominator[of]) / (total / of.sum())
    return values


def cuped(values: Floats, covariate: Floats) -> Floats:
    """The values without what the covariate explains; the same expectation, (1 - correlation²) of the variance.

    Deng, Xu, Kohavi, Walker 2013, "Improving the sensitivity of online controlled experiments by utilizing
    pre-experiment data". The covariate must be from before the exposure. A constant one changes nothing.

    >>> cuped(np.array([1.0, 3.0, 5.0]), np.array([0.0, 1.0, 2.0])).tolist()
    [3.0, 3.0, 3.0]
    """
    spread = float(np.var(covariate))
    if spread == 0:
        return values
    theta = float(np.mean((values - values.mean()) * (covariate - covariate.mean()))) / spread
    adjusted: Floats = values - theta * (covariate - covariate.mean())
    return adjusted


def fixed(treatment: Floats, control: Floats, alpha: float) -> Effect:
    """Welch's t-test with its interval: valid if it is read once, when the planned number of units is in."""
    if min(len(treatment), len(control)) < 2:
        return Effect(_mean(control), _mean(treatment), -np.inf, np.inf, 1.0)
    a, b = (float(np.var(values, ddof=1)) / len(values) for values in (treatment, control))
    if a + b == 0:
        return _certain(treatment, control)
    # Welch's degrees of freedom. By scipy's quantiles, as its ttest_ind takes ten times as long.
    freedom = (a + b) ** 2 / (a**2 / (len(treatment) - 1) + b**2 / (len(control) - 1))
    difference, error = float(treatment.mean() - control.mean()), sqrt(a + b)
    p_value = 2 * float(special.stdtr(freedom, -abs(difference) / error))
    radius = error * float(special.stdtrit(freedom, 1 - alpha / 2))
    return Effect(_mean(control), _mean(treatment), difference - radius, difference + radius, p_value)


def always_valid(treatment: Floats, control: Floats, alpha: float, scale: float) -> Effect:
    """The mixture sequential probability ratio test: an interval that holds at all times at once, and its p-value.

    Johari, Koomen, Pekelis, Walsh 2022, "Always valid inference: continuous monitoring of A/B tests", with a normal
    mixture whose standard deviation is `scale`, the effect (in the metric's unit) that one hopes to see. It is valid
    asymptotically: with fewer than some hundred units in an arm the variance is not known well enough, and nothing is
    said. Units must come in independently of what was seen before.
    """
    control_mean, treatment_mean = _mean(control), _mean(treatment)
    if min(len(treatment), len(control)) < FEW or scale <= 0:
        return Effect(control_mean, treatment_mean, -np.inf, np.inf, 1.0)
    variance = float(np.var(treatment, ddof=1)) / len(treatment) + float(np.var(control, ddof=1)) / len(control)
    difference = treatment_mean - control_mean
    if variance == 0:
        return _certain(treatment, control)
    radius, p_value = _mixture(difference, variance, scale**2, alpha)
    return Effect(control_mean, treatment_mean, difference - radius, difference + radius, p_value)


FEW = 100  # units in an arm; below it the normal approximation errs towards finding too much


def _mixture(difference: float, variance: float, mixing: float, alpha: float) -> tuple[float, float]:
    """Half the interval's width, and the p-value, for an estimate with that variance."""
    both = variance + mixing
    radius = sqrt(variance * both / mixing * (2 * log(1 / alpha) + log(both / variance)))
    log_ratio = 0.5 * log(variance / both) + mixing * difference**2 / (2 * variance * both)
    return radius, float(np.exp(min(0.0, -log_ratio)))


def sample_size(std: float, effect: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Units that each of two equal arms needs to find a difference of `effect` with that power, two-sided.

    >>> sample_size(1.0, 0.1)
    1571
    """
    from statsmodels.stats.power import TTestIndPower

    if effect == 0 or std <= 0:
        raise ExperimentError(
            f"no number of units finds an effect of {effect:g} at a deviation of {std:g}; ask for more"
        )
    return int(np.ceil(TTestIndPower().solve_power(abs(effect) / std, alpha=alpha, power=power)))


def imbalance(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """The p-value of the sample ratios: below IMBALANCED the arms are not what was declared, and nothing may be read.

    Pearson's chi-square (Fabijan et al. 2019, "Diagnosing sample ratio mismatch in online controlled experiments").

    >>> imbalance({"a": 5000, "b": 5050}, {"a": 0.5, "b": 0.5}) > 0.5
    True
    >>> imbalance({"a": 4800, "b": 5200}, {"a": 0.5, "b": 0.5}) < IMBALANCED
    True
    """
    total = sum(counts.values())
    if total == 0:
        return 1.0
    observed = [counts.get(arm, 0) for arm in shares]
    return float(stats.chisquare(observed, [total * share for share in shares.values()]).pvalue)


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else nan


def _certain(treatment: Floats, control: Floats) -> Effect:
    """Two arms without any variance: whatever the difference is, there is no doubt about it."""
    difference = float(treatment.mean() - control.mean())
    return Effect(_mean(control), _mean(treatment), difference, difference, float(difference == 0))
