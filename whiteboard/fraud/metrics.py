"""How good is a fraud model: ranking, cards found a day, money, calibration; with intervals, floor and ceiling.

    scored = Scored(day, card, is_fraud, amount, risk)
    evaluate(scored)["card_precision_at_100"]   # {"value": 0.332, "low": 0.298, "high": 0.364, "floor": 0.021, "ceiling": 0.44}

A value alone says little: the floor is what a random ranking gets on the same payments, the ceiling what a perfect one
gets, and the interval how much the value would move with other cards (payments of one card are not independent, so
whole cards are drawn).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whiteboard.errors import NotEnoughDataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Report = dict[str, dict[str, float]]

_FLOOR_DRAWS = 20
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Scored:
    """Payments with the truth and a risk, as arrays of one length.

    `day` and `card` are integers (any coding), `is_fraud` 0 or 1, `risk` any score that rises with it (a calibrated
    probability where money or calibration is asked for).
    """

    day: Ints
    card: Ints
    is_fraud: Floats
    amount: Floats
    risk: Floats


def roc_auc(is_fraud: ArrayLike, risk: ArrayLike, weight: ArrayLike | None = None) -> float:
    """The probability that a random fraud ranks above a random honest payment, ties counting half; in [0, 1].

    NaN when there are no frauds or nothing else.

    >>> roc_auc([0, 1, 0, 1], [0.1, 0.9, 0.5, 0.5])
    0.875
    """
    frauds, honest = _counts(is_fraud, risk, weight)
    above = np.concatenate([[0.0], np.cumsum(frauds)[:-1]])
    total = frauds.sum() * honest.sum()
    return float((honest * (above + frauds / 2)).sum() / total) if total else float("nan")


def average_precision(is_fraud: ArrayLike, risk: ArrayLike, weight: ArrayLike | None = None) -> float:
    """The mean of the precision at each fraud, from the riskiest payment down; in [0, 1], the fraud share at random.

    Payments of equal risk are taken together (scikit-learn's average_precision_score). NaN when there are no frauds.

    >>> average_precision([0, 1, 0, 1], [0.1, 0.9, 0.5, 0.4])
    0.8333333333333333
    """
    frauds, honest = _counts(is_fraud, risk, weight)
    caught, seen = np.cumsum(frauds), np.cumsum(frauds + honest)
    precision = np.divide(caught, seen, out=np.zeros_like(seen), where=seen > 0)
    return float((precision * frauds).sum() / frauds.sum()) if frauds.sum() else float("nan")


def card_precision(scored: Scored, k: int = 100, copies: Ints | None = None) -> float:
    """The mean over the days of (compromised cards among the day's k riskiest cards) / k; in [0, 1].

    A card's risk on a day is the highest of its payments, and it is compromised if any of them is a fraud. A
    compromised card that was among the k is blocked: it leaves the following days. Ties are broken at random, with a
    fixed seed. On a day with fewer than k cards the share is still out of k. `copies` says how often each card code
    (0 … max) is drawn, for the bootstrap. Fraud Detection Handbook, chapter 4, "Precision top-k metrics".
    """
    size = int(scored.card.max(initial=-1)) + 1
    copies = np.ones(size, dtype=np.int64) if copies is None else copies
    tie_break, found = np.random.default_rng(0).permutation(size), np.zeros(size, dtype=bool)
    shares = []
    for rows in _by_day(scored.day):
        risk, fraud = np.full(size, -np.inf), np.zeros(size)
        np.maximum.at(risk, scored.card[rows], scored.risk[rows])
        np.maximum.at(fraud, scored.card[rows], scored.is_fraud[rows])
        cards = np.flatnonzero((risk > -np.inf) & ~found & (copies > 0))
        cards = cards[np.lexsort((tie_break[cards], -risk[cards]))]
        room = k - (np.cumsum(copies[cards]) - copies[cards])  # places left before each card's copies
        taken = np.clip(np.minimum(copies[cards], room), 0, None)
        shares.append(float((taken * fraud[cards]).sum()) / k)
        found[cards[(taken > 0) & (fraud[cards] > 0)]] = True
    return float(np.mean(shares)) if shares else float("nan")


def calibration_error(is_fraud: Floats, probability: Floats, bins: int = 20) -> float:
    """The expected calibration error: |mean probability - fraud share| over bins, averaged by payments; in [0, 1].

    Bins hold equal numbers of payments *or* of expected frauds: the edges are quantiles of both, since by payments
    alone all bins but one would lie below the base rate. Naeini et al., "Obtaining well calibrated probabilities"
    (2015), with these bins. 0.0 for no payments.
    """
    if not len(probability):
        return 0.0
    order = np.argsort(probability, kind="stable")
    sorted_risk = probability[order]
    mass = np.cumsum(sorted_risk) / max(sorted_risk.sum(), 1e-300)
    shares = np.linspace(0, 1, bins // 2 + 1)[1:-1]
    cuts = np.concatenate([(shares * len(order)).astype(np.int64), np.searchsorted(mass, shares)])
    total = 0.0
    for rows in np.split(order, np.unique(cuts)):
        if len(rows):
            total += abs(probability[rows].sum() - is_fraud[rows].sum())
    return float(total / len(order))


def cost_per_1000(cost: Floats) -> float:
    """The mean cost of 1,000 payments from the cost of each (`decision.realised_cost`); 0.0 for no payments."""
    return 1000 * float(cost.mean()) if len(cost) else 0.0


def interval(
    metric: Callable[[Scored, Ints], float], scored: Scored, *, draws: int = 200, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of `metric(scored, copies)` when cards are drawn anew with replacement (cluster bootstrap).

    `copies` says how often each card code came up. Percentile method (Efron, 1979); draws for which the metric is
    undefined (no fraud) are left out; NaN if all are.
    """
    rng = np.random.default_rng(seed)
    size = int(scored.card.max(initial=-1)) + 1
    values = [metric(scored, np.bincount(rng.integers(0, size, size), minlength=size)) for _ in range(draws)]
    defined = np.array([v for v in values if not np.isnan(v)])
    if not defined.size:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


def evaluate(scored: Scored, k: int = 100, *, draws: int = 200, seed: int = 0) -> Report:
    """roc_auc, average_precision and card_precision_at_k, each as {value, low, high, floor, ceiling}.

    Card codes are made dense first. Raises NotEnoughDataError without at least one fraud and one honest payment.
    """
    if not 0 < scored.is_fraud.sum() < len(scored.is_fraud):
        raise NotEnoughDataError(f"{int(scored.is_fraud.sum())} frauds in {len(scored.is_fraud)} payments: nothing to rank")
    scored = replace(scored, card=np.unique(scored.card, return_inverse=True)[1].astype(np.int64))
    ranking = _Ranking(scored)
    metrics: dict[str, Callable[[Scored, Ints], float]] = {
        "roc_auc": lambda s, copies: ranking.of(s, roc_auc, copies),
        "average_precision": lambda s, copies: ranking.of(s, average_precision, copies),
        f"card_precision_at_{k}": lambda s, copies: card_precision(s, k, copies),
    }
    ones = np.ones(int(scored.card.max()) + 1, dtype=np.int64)
    rng = np.random.default_rng(seed)
    at_random = [replace(scored, risk=rng.random(len(scored.risk))) for _ in range(_FLOOR_DRAWS)]
    perfect = replace(scored, risk=scored.is_fraud)
    report = {}
    for name, metric in metrics.items():
        low, high = interval(metric, scored, draws=draws, seed=seed)
        report[name] = {
            "value": metric(scored, ones),
            "low": low,
            "high": high,
            "floor": float(np.mean([metric(s, ones) for s in at_random])),
            "ceiling": metric(perfect, ones),
        }
    return report
