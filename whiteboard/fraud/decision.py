"""From a probability to an action: what each action costs, and where the thresholds between them lie.

    thresholds = fit_thresholds(probability, amount, CostTable(), reviews_per_day=25, days=7)
    decide(0.93, "t-000017", thresholds, exploration=0.05)
    Outcome(decision='decline', propensity=0.95)

A declined payment never gets a label, so a system that declines all that looks bad stops learning what bad looks like.
A small, known share of the declines is therefore waived into the review queue, where an analyst labels them within a
day; the share is logged as the propensity, and training weighs those rows by its inverse.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Action = Literal["approve", "review", "decline"]

_GRID = 256  # candidate thresholds; finer than the sampling error of any slice we fit on


@dataclass(frozen=True)
class CostTable:
    """What a decision costs, in account currency; the amounts are of the order that card issuers report."""

    missed_share: float = 1.0  # of the amount, lost when a fraud is approved
    chargeback_fee: float = 15.0  # on top, for each missed fraud
    review_cost: float = 3.0  # some minutes of an analyst, who then decides rightly
    friction: float = 25.0  # an honest customer is declined: the call, the lost sale, the card moved to the back

    def approve(self, fraud: Floats, amount: Floats) -> Floats:
        """Expected cost of approving payments that are frauds with probability `fraud` (or are: 0 and 1)."""
        return fraud * (self.missed_share * amount + self.chargeback_fee)

    def decline(self, fraud: Floats) -> Floats:
        """Expected cost of declining payments that are frauds with probability `fraud` (or are: 0 and 1)."""
        return (1 - fraud) * self.friction


@dataclass(frozen=True)
class Thresholds:
    """From `review` on a payment is reviewed, from `decline` on it is declined; review ≤ decline."""

    review: float
    decline: float


class Outcome(NamedTuple):
    """An action and the probability with which it was taken."""

    decision: Action
    propensity: float


def waiver_draw(transaction_id: str) -> float:
    """A number in [0, 1) drawn by the id alone, so that a retried request meets the same fate.

    >>> waiver_draw("t-000017") == waiver_draw("t-000017")
    True
    """
    return int.from_bytes(blake2b(transaction_id.encode(), digest_size=8, person=b"waiver").digest()) / 2**64


def decide(probability: float, transaction_id: str, thresholds: Thresholds, exploration: float = 0.0) -> Outcome:
    """The action for a payment; a share `exploration` of the would-be declines goes to review instead.

    >>> decide(0.2, "t-1", Thresholds(review=0.1, decline=0.8))
    Outcome(decision='review', propensity=1.0)
    """
    if probability < thresholds.review:
        return Outcome("approve", 1.0)
    if probability < thresholds.decline:
        return Outcome("review", 1.0)
    if waiver_draw(transaction_id) < exploration:
        return Outcome("review", exploration)
    return Outcome("decline", 1.0 - exploration)


def fit_thresholds(
    probability: Floats,
    amount: Floats,
    costs: CostTable,
    *,
    reviews_per_day: float,
    days: float,
    weight: Floats | None = None,
) -> Thresholds:
    """The thresholds of lowest expected cost on a slice of `days`, with at most `reviews_per_day` on average.

    `probability` must be calibrated: the expectation is over it, not over the slice's few frauds, which makes the
    result steady. Arrays have one entry a payment. A slice where reviewing never pays gives review = decline.
    """
    order = np.argsort(-probability, kind="stable")
    p, amounts = probability[order], amount[order]
    w = np.ones_like(p) if weight is None else weight[order]
    # Cost of an action over the n riskiest payments, n = 0..len; then every pair (declined, reviewed) on a grid.
    approve, decline, review = (
        np.concatenate([[0.0], np.cumsum(w * cost)])
        for cost in (costs.approve(p, amounts), costs.decline(p), np.full_like(p, costs.review_cost))
    )
    seen = np.concatenate([[0.0], np.cumsum(w)])
    cuts = _cuts(p)
    declined, reached = cuts[:, None], cuts[None, :]
    total = decline[declined] + review[reached] - review[declined] + approve[-1] - approve[reached]
    reviews = seen[reached] - seen[declined]
    allowed = (reached >= declined) & (reviews <= reviews_per_day * days + 1e-9)  # room for the rounding of the sums
    best = np.unravel_index(np.argmin(np.where(allowed, total, np.inf)), total.shape)
    return Thresholds(review=_between(p, int(cuts[best[1]])), decline=_between(p, int(cuts[best[0]])))


def _cuts(descending: Floats) -> NDArray[np.int64]:
    """Numbers of riskiest payments at which a threshold can cut: not within ties, denser where the risk is."""
    ends = np.flatnonzero(np.append(np.diff(descending) < 0, True)) + 1
    picks = np.unique(np.geomspace(1, len(ends), _GRID).astype(np.int64)) - 1
    return np.concatenate([[0], ends[picks]]).astype(np.int64)


def _between(descending: Floats, count: int) -> float:
    """The threshold that `count` payments reach: halfway to the next one; above all of them for a count of 0."""
    above = descending[count - 1] if count else 1.0
    below = descending[count] if count < len(descending) else 0.0
    return float(min((above + below) / 2, above)) if above > below else float(above)


def actions(probability: Floats, thresholds: Thresholds) -> NDArray[np.str_]:
    """The action for each payment, without exploration."""
    return np.select(
        [probability >= thresholds.decline, probability >= thresholds.review], ["decline", "review"], "approve"
    )


def realised_cost(taken: NDArray[np.str_], is_fraud: Floats, amount: Floats, costs: CostTable) -> Floats:
    """What each action cost once the truth (0 or 1) is known, in account currency."""
    return np.select(
        [taken == "approve", taken == "review"],
        [costs.approve(is_fraud, amount), np.full_like(amount, costs.review_cost)],
        costs.decline(is_fraud),
    )
