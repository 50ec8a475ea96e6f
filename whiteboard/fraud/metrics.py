"""How good a fraud score is: ranking, cards found a day, calibration, money; with interval, floor and ceiling.

    judge(Scored(day, card, is_fraud, amount, risk))["card_precision_at_100"]
    {"value": 0.332, "low": 0.301, "high": 0.359, "floor": 0.021, "ceiling": 0.44}

A value alone says little: the floor is what the same scores get when they are dealt out blindly, the ceiling what a
perfect ranking gets, and the interval how far the value would move with other cards (the payments of one card stand or
fall together, so whole cards are drawn).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whiteboard.errors import NotEnoughDataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Report = dict[str, dict[str, float]]  # metric → value, low, high, floor, ceiling

CARDS_A_DAY = 100  # cards that can be checked a day, as the Handbook has it
CONFIDENCE = 0.95  # of the intervals
_BLIND_DRAWS = 20  # their mean is steady to a tenth of the interval's width


@dataclass(frozen=True)
class Scored:
    """Payments with the truth and a score, as arrays of one length.

    `day` and `card` are integer codes, cards from 0 without gaps (see `dense`), `is_fraud` is 0 or 1, `risk` any number
    that rises with the risk (a probability, where cost or calibration is asked for).
    """

    day: Ints
    card: Ints
    is_fraud: Floats
    amount: Floats
    risk: Floats


Metric = Callable[[Scored, Ints], float]  # of the payments, each as often as the copies of its card say


def dense(column: ArrayLike) -> Ints:
    """Codes 0, 1, … for the distinct values of a column, in their order.

    >>> dense(["c-7", "c-1", "c-7"]).tolist()
    [1, 0, 1]
    """
    return np.unique(np.asarray(column), return_inverse=True)[1].astype(np.int64)


def roc_auc(is_fraud: ArrayLike, risk: ArrayLike, weight: ArrayLike | None = None) -> float:
    """The probability that a fraud ranks above an honest payment, ties counting half; in [0, 1], ½ at random.

    NaN when one of the two is missing.

    >>> roc_auc([0, 1, 0, 1], [0.1, 0.9, 0.5, 0.5])
    0.875
    """
    frauds, honest = _by_risk(is_fraud, risk, weight)
    pairs = frauds.sum() * honest.sum()
    above = np.cumsum(frauds) - frauds / 2
    return float(above @ honest / pairs) if pairs else float("nan")


def average_precision(is_fraud: ArrayLike, risk: ArrayLike, weight: ArrayLike | None = None) -> float:
    """The mean, over the frauds, of the precision down to each; in [0, 1], the share of frauds at random.

    Payments of equal risk are taken together, as by scikit-learn's average_precision_score. NaN without frauds.

    >>> round(average_precision([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1]), 4)
    0.8333
    """
    frauds, honest = _by_risk(is_fraud, risk, weight)
    total = frauds.sum()
    caught, seen = np.cumsum(frauds), np.cumsum(frauds + honest)
    precision = np.divide(caught, seen, out=np.zeros_like(seen), where=seen > 0)
    return float(precision @ frauds / total) if total else float("nan")


def outranks(
    is_fraud: ArrayLike, risk: ArrayLike, than: ArrayLike, *, card: Ints, weight: ArrayLike | None = None, seed: int = 0
) -> float:
    """The probability that `risk` has a higher average precision than `than`; a tie counts half.

    A paired bootstrap: both rank the same resampled cards (`card`: see `dense`), so what makes payments easy or hard
    for both cancels out.
    """
    rng, size = np.random.default_rng(seed), int(card.max()) + 1
    own = np.ones(len(card)) if weight is None else np.asarray(weight, dtype=np.float64)
    wins = []
    for _ in range(bounded_draws(len(card))):
        drawn = own * np.bincount(rng.integers(0, size, size), minlength=size)[card]
        one, other = (average_precision(is_fraud, r, drawn) for r in (risk, than))
        wins.append(float(one > other) + 0.5 * float(one == other))
    return float(np.mean(wins))


def bounded_draws(rows: int) -> int:
    """As many bootstrap draws as take a second or so: 40 give a usable interval, 200 a smooth one."""
    return int(np.clip(1_000_000 // max(rows, 1), 40, 200))


def _by_risk(is_fraud: ArrayLike, risk: ArrayLike, weight: ArrayLike | None) -> tuple[Floats, Floats]:
    """Weight of frauds and of honest payments at each distinct risk, the highest first."""
    truth, score = np.asarray(is_fraud, dtype=np.float64), np.asarray(risk, dtype=np.float64)
    order = np.argsort(-score, kind="stable")  # fast on what is sorted already, as in `judge`
    weights = np.ones_like(score) if weight is None else np.asarray(weight, dtype=np.float64)[order]
    frauds = weights * truth[order]
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True)) if len(score) else np.zeros(0, dtype=np.int64)
    return (
        np.diff(np.cumsum(frauds)[ends], prepend=0.0),
        np.diff(np.cumsum(weights - frauds)[ends], prepend=0.0),
    )


def card_precision(scored: Scored, k: int = CARDS_A_DAY, copies: Ints | None = None) -> float:
    """The mean over the days of: compromised cards among the day's `k` riskiest cards, divided by `k`; in [0, 1].

    A card's risk on a day is the highest of its payments; it is compromised if one of them is a fraud. A compromised
    card that was found leaves the following days. A day with fewer than `k` cards is still divided by `k`. Cards of
    equal risk are taken in a random order with a fixed seed. `copies` says how often each card is drawn (bootstrap).
    Fraud Detection Handbook, chapter 4, "Precision top-k metrics"; Card Precision@100 in its tables. NaN without days.
    """
    cards = int(scored.card.max(initial=-1)) + 1
    copies = np.ones(cards, dtype=np.int64) if copies is None else copies
    tie_break = np.random.default_rng(0).permutation(cards)
    found = np.zeros(cards, dtype=bool)
    precisions = []
    for day in np.unique(scored.day):
        rows = scored.day == day
        risk, compromised = np.full(cards, -np.inf), np.zeros(cards, dtype=bool)
        np.maximum.at(risk, scored.card[rows], scored.risk[rows])
        compromised[scored.card[rows & (scored.is_fraud > 0)]] = True
        present = np.zeros(cards, dtype=bool)
        present[scored.card[rows]] = True
        left = np.flatnonzero(present & ~found & (copies > 0))
        left = left[np.lexsort((tie_break[left], -risk[left]))]
        drawn = copies[left]
        checked = np.clip(k - (np.cumsum(drawn) - drawn), 0, drawn)  # the last one may fit in part only
        precisions.append(float(checked @ compromised[left]) / k)
        found[left[(checked > 0) & compromised[left]]] = True
    return float(np.mean(precisions)) if precisions else float("nan")


def calibration_error(is_fraud: Floats, probability: Floats, bins: int = 10, weight: Floats | None = None) -> float:
    """The expected calibration error: |mean probability - share of frauds| over groups of payments; in [0, 1].

    A group counts by its payments (Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning",
    2015). The groups hold equal *expected frauds*: by payments alone all but one would lie below the base rate. 0.0
    for no payments.

    >>> calibration_error(np.array([0.0, 1.0]), np.array([0.2, 0.6]), bins=1)
    0.1
    """
    if not len(probability):
        return 0.0
    weights = np.ones(len(probability)) if weight is None else weight
    order = np.argsort(probability, kind="stable")
    expected = np.cumsum((weights * probability)[order])
    group = np.minimum((expected / max(expected[-1], 1e-300) * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(group, (weights * (probability - is_fraud))[order], minlength=bins)
    return float(np.abs(gaps).sum() / weights.sum())


def cost_per_1000(cost: Floats, weight: Floats | None = None) -> float:
    """What 1,000 payments cost on average, from the cost of each (`decision.realised_cost`), in account currency."""
    return 1000 * float(np.average(cost, weights=weight))


def interval(metric: Metric, scored: Scored, *, draws: int = 200, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of `metric(scored, copies)` when the cards are drawn anew with replacement.

    A cluster bootstrap by percentiles (Efron, "Bootstrap methods", 1979). Draws for which the metric is undefined (no
    fraud came up) are left out; NaN if it is for all.
    """
    rng, cards = np.random.default_rng(seed), int(scored.card.max(initial=-1)) + 1
    values = [metric(scored, np.bincount(rng.integers(0, cards, cards), minlength=cards)) for _ in range(draws)]
    defined = [value for value in values if not np.isnan(value)]
    if not defined:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def judge(
    scored: Scored, k: int = CARDS_A_DAY, *, extra: Mapping[str, Metric] | None = None, draws: int = 100, seed: int = 0
) -> Report:
    """roc_auc, average_precision, card_precision_at_k and the `extra` metrics: value, low, high, floor, ceiling.

    Raises NotEnoughDataError unless there are both frauds and honest payments.
    """
    if not 0 < scored.is_fraud.sum() < len(scored.is_fraud):
        raise NotEnoughDataError(
            f"to judge a score takes frauds and honest payments; of {len(scored.is_fraud)} payments "
            f"{scored.is_fraud.sum():.0f} are frauds"
        )
    metrics: dict[str, Metric] = {
        "roc_auc": lambda s, copies: roc_auc(s.is_fraud, s.risk, copies[s.card]),
        "average_precision": lambda s, copies: average_precision(s.is_fraud, s.risk, copies[s.card]),
        f"card_precision_at_{k}": lambda s, copies: card_precision(s, k, copies),
        **(extra or {}),
    }
    order = np.argsort(-scored.risk, kind="stable")
    scored = Scored(*(getattr(scored, name)[order] for name in scored.__dataclass_fields__))
    rng, everyone = np.random.default_rng(seed), np.ones(int(scored.card.max()) + 1, dtype=np.int64)
    blind = [replace(scored, risk=rng.permutation(scored.risk)) for _ in range(_BLIND_DRAWS)]
    perfect = replace(scored, risk=scored.is_fraud)
    report: Report = {}
    for name, metric in metrics.items():
        low, high = interval(metric, scored, draws=draws, seed=seed)
        floor = float(np.mean([metric(s, everyone) for s in blind]))
        value, ceiling = metric(scored, everyone), metric(perfect, everyone)
        report[name] = {"value": value, "low": low, "high": high, "floor": floor, "ceiling": ceiling}
    return report


def mean_over(reports: Sequence[Report]) -> Report:
    """The mean of each metric over folds (weeks), with the 95 % interval of that mean by Student's t over the folds.

    A single fold keeps its own interval.
    """
    if len(reports) == 1:
        return reports[0]
    from scipy.stats import t

    means: Report = {}
    for name in reports[0]:
        mean = {part: float(np.mean([report[name][part] for report in reports])) for part in reports[0][name]}
        spread = float(np.std([report[name]["value"] for report in reports], ddof=1))
        half = float(t.ppf((1 + CONFIDENCE) / 2, len(reports) - 1)) * spread / len(reports) ** 0.5
        means[name] = mean | {"low": mean["value"] - half, "high": mean["value"] + half, "sd": spread}
    return means
