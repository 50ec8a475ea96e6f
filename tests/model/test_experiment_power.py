"""The statistics of experiments keep their promises over a thousand experiments with known truth.

Users as they are: activity is log-normal, a user's clicks follow from the user's own rate, and past activity tells of
the future one. Every promise is checked within the interval that a thousand experiments leave to chance.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from whiteboard.experiment import Metric
from whiteboard.experiment_statistics import always_valid, cuped, fixed, sample_size, unit_values

Floats = NDArray[np.float64]
EXPERIMENTS, USERS = 1_000, 2_000  # users in both arms together
LOOKS = np.linspace(200, USERS, 20).astype(int)


class Users(NamedTuple):
    """Some users: impressions and clicks during the experiment, and clicks before it."""

    impressions: Floats
    clicks: Floats
    before: Floats


def users(rng: np.random.Generator, count: int, lift: Floats | float = 1.0) -> Users:
    activity = rng.lognormal(2.5, 0.7, count)
    rate = rng.beta(2, 18, count)  # clicks for an impression: over-dispersed between users
    impressions = 1 + rng.poisson(activity)
    clicks = rng.binomial(impressions, np.clip(rate * lift, 0, 1))
    before = rng.binomial(1 + rng.poisson(activity), rate)
    return Users(impressions.astype(float), clicks.astype(float), before.astype(float))


def within_chance(found: int, share: float, trials: int = EXPERIMENTS) -> bool:
    """Whether that many of `trials` is what a share of `share` gives in 99.9 of 100 cases."""
    low, high = stats.binom.interval(0.999, trials, share)
    return bool(low <= found <= high)


def test_a_thousand_experiments_without_effect_find_one_in_a_twentieth_of_them() -> None:
    rng = np.random.default_rng(11)
    found = {"plain": 0, "cuped": 0, "ratio": 0}
    for _ in range(EXPERIMENTS):
        some = users(rng, USERS)
        treated = rng.random(USERS) < 0.5
        frame = pd.DataFrame({"arm": np.where(treated, "b", "a"), "clicks": some.clicks, "seen": some.impressions})
        ratio = unit_values(frame, Metric(name="ctr", numerator="clicks", denominator="seen"))
        for name, y in (("plain", some.clicks), ("cuped", cuped(some.clicks, some.before)), ("ratio", ratio)):
            found[name] += fixed(y[treated], y[~treated], 0.05).significant
    assert {name: within_chance(count, 0.05) for name, count in found.items()} == dict.fromkeys(found, True), found


def test_impressions_taken_for_units_would_find_effects_that_are_not_there() -> None:
    rng = np.random.default_rng(12)
    found = 0
    for _ in range(EXPERIMENTS):
        some = users(rng, USERS)
        treated = rng.random(USERS) < 0.5
        shown, clicked = ([x[treated].sum(), x[~treated].sum()] for x in (some.impressions, some.clicks))
        table = [clicked, [s - c for s, c in zip(shown, clicked, strict=True)]]
        found += stats.chi2_contingency(table, correction=False).pvalue < 0.05
    assert found > 0.10 * EXPERIMENTS, "the mistake that a unit of analysis avoids"


@pytest.mark.parametrize("power", [0.8, 0.95])
def test_the_computed_number_of_units_has_the_computed_power(power: float) -> None:
    rng = np.random.default_rng(13)
    past = users(rng, 200_000).clicks
    effect = 0.1 * float(past.mean())
    count = sample_size(float(past.std()), effect, power=power)
    found = 0
    for _ in range(EXPERIMENTS):
        one, other = users(rng, count).clicks, users(rng, count, lift=1.1).clicks
        found += fixed(other, one, 0.05).p_value < 0.05
    assert within_chance(found, power), (count, found)


def test_cuped_takes_out_what_the_past_explains() -> None:
    some = users(np.random.default_rng(14), 100_000)
    explained = np.corrcoef(some.clicks, some.before)[0, 1] ** 2
    assert explained > 0.3
    assert cuped(some.clicks, some.before).var() / some.clicks.var() == pytest.approx(1 - explained, rel=1e-6)
    assert cuped(some.clicks, some.before).mean() == pytest.approx(some.clicks.mean())


def test_peeking_breaks_the_fixed_test_and_not_the_sequential_one() -> None:
    rng = np.random.default_rng(15)
    naive = sequential = 0
    for _ in range(EXPERIMENTS):
        clicks, treated = users(rng, USERS).clicks, rng.random(USERS) < 0.5
        hits = [_both(clicks[:look], treated[:look]) for look in LOOKS]
        naive += any(one for one, _ in hits)
        sequential += any(other for _, other in hits)
    assert naive > 0.15 * EXPERIMENTS, naive
    assert sequential <= stats.binom.ppf(0.999, EXPERIMENTS, 0.05), sequential


def _both(clicks: Floats, treated: NDArray[np.bool_]) -> tuple[bool, bool]:
    one, other = clicks[treated], clicks[~treated]
    scale = 0.1 * float(other.mean())
    return fixed(one, other, 0.05).significant, always_valid(one, other, 0.05, scale).significant


def test_the_sequential_test_finds_a_clear_effect_before_the_fixed_ones_horizon() -> None:
    rng = np.random.default_rng(16)
    past = users(rng, 100_000).clicks
    count = sample_size(float(past.std()), 0.1 * float(past.mean()))
    stopped = []
    for _ in range(100):
        one, other = users(rng, count).clicks, users(rng, count, lift=1.25).clicks
        looks = np.linspace(100, count, 20).astype(int)
        early = (n for n in looks if always_valid(other[:n], one[:n], 0.05, 0.1 * float(one[:n].mean())).low > 0)
        stopped.append(next(early, count))
    assert np.median(stopped) < 0.6 * count


def test_its_interval_covers_the_truth_at_every_look_at_once() -> None:
    rng = np.random.default_rng(17)
    truth = 0.2 * float(users(rng, 400_000).clicks.mean())
    missed = 0
    for _ in range(EXPERIMENTS):
        treated = rng.random(USERS) < 0.5
        clicks = users(rng, USERS, lift=np.where(treated, 1.2, 1.0)).clicks
        seen = [always_valid(clicks[:n][treated[:n]], clicks[:n][~treated[:n]], 0.05, 0.15) for n in LOOKS]
        missed += any(not effect.low <= truth <= effect.high for effect in seen)
    assert missed <= stats.binom.ppf(0.999, EXPERIMENTS, 0.05), missed
