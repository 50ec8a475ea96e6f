"""Why a payment looks bad, in words: each feature that raised the risk becomes one line for people.

Reason(feature="amount_to_mean", contribution=1.84, text="amount is 5.2 times the customer's mean")
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan

_SPANS = {"1h": "hour", "1d": "day", "7d": "7 days", "28d": "28 days", "30d": "30 days", "90d": "90 days"}
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


@dataclass(frozen=True)
class Reason:
    """One reason: the feature, what it (and its kin) added to the log-odds of fraud, and the words for people."""

    feature: str
    contribution: float
    text: str


def words(feature: str, value: float) -> str:
    """`feature` having `value`, as an English clause; an unknown feature is named as it is.

    >>> words("amount_to_mean", 5.2)
    "amount is 5.2 times the customer's mean"
    >>> words("terminal_fraud_count_28d", 3)
    '3 frauds became known at the terminal in the last 28 days'
    """
    if feature in _PHRASES:
        return _PHRASES[feature](value)
    stem, _, span = feature.rpartition("_")
    if stem in _WINDOWED and span in _SPANS:
        return _WINDOWED[stem](value, _SPANS[span])
    return f"{feature} is {value:g}"


def strongest(features: Sequence[str], contributions: Sequence[float], values: Sequence[float], k: int) -> list[Reason]:
    """The `k` strongest reasons for fraud, strongest first; fewer when fewer features raise the risk.

    Features that tell the same story (three ways to say that the amount is high) count as one reason: their
    contributions are summed and the strongest of them is put into words.
    """
    families: dict[str, list[tuple[float, int]]] = {}
    for i, feature in enumerate(features):
        families.setdefault(_family(feature), []).append((contributions[i], i))
    totals = sorted(((sum(c for c, _ in kin), max(kin)[1]) for kin in families.values()), reverse=True)
    return [Reason(features[i], total, words(features[i], values[i])) for total, i in totals[:k] if total > 0]


def _family(feature: str) -> str:
    return next((family for family in _FAMILIES if feature.startswith(family)), feature)


_FAMILIES = ("amount", "customer_count", "customer_mean", "terminal_count", "terminal_fraud", "terminal_run",
             "terminal_unexplained_run")  # fmt: skip


def _count(value: float, noun: str) -> str:
    return f"{value:.0f} {noun}" if value != 1 else f"1 {noun.removesuffix('s')}"


def _since(seconds: float) -> str:
    if isnan(seconds) or seconds >= 30 * _DAY:
        return "no payment by the customer in the last 30 days"
    for unit, name in ((_DAY, "days"), (_HOUR, "hours"), (_MINUTE, "minutes"), (1, "seconds")):
        if seconds >= unit:
            return f"{_count(seconds // unit, name)} since the customer's last payment"
    return "at the same second as the customer's last payment"


def _zscore(value: float) -> str:
    if isnan(value):
        return "the customer has no earlier payments to compare with"
    side = "above" if value >= 0 else "below"
    return f"amount is {abs(value):.1f} standard deviations {side} the customer's mean"


def _ratio(value: float) -> str:
    if isnan(value):
        return "the customer has no earlier payments to compare with"
    return f"amount is {value:.1f} times the customer's mean"


def _run(value: float) -> str:
    if isnan(value):
        return "no run of known frauds at the terminal"
    return f"every labelled payment at the terminal was a fraud since {_count(value, 'days')} ago"


_PHRASES: dict[str, Callable[[float], str]] = {
    "amount": lambda v: f"amount of {v:.2f}",
    "amount_to_mean": _ratio,
    "amount_zscore": _zscore,
    "is_night": lambda v: "paid at night" if v else "paid by day",
    "is_weekend": lambda v: "paid on a weekend" if v else "paid on a working day",
    "recent_max_to_mean": lambda v: (
        "no payment by the customer in the last 7 days"
        if isnan(v)
        else f"the customer's largest payment of the last 7 days is {v:.1f} times the mean"
    ),
    "seconds_since_customer_last": _since,
    "customer_std_30d": lambda v: (
        "the customer's amounts have no spread yet" if isnan(v) else f"the customer's amounts vary by {v:.2f}"
    ),
    "terminal_run_days": _run,
    "terminal_unexplained_run_days": _run,
}
_WINDOWED: dict[str, Callable[[float, str], str]] = {
    "customer_count": lambda v, span: f"{_count(v, 'payments')} by the customer in the last {span}",
    "customer_mean": lambda v, span: (
        f"no payment by the customer in the last {span}"
        if isnan(v)
        else f"the customer's mean amount over the last {span} is {v:.2f}"
    ),
    "customer_max": lambda v, span: (
        f"no payment by the customer in the last {span}"
        if isnan(v)
        else f"the customer's largest payment of the last {span} is {v:.2f}"
    ),
    "terminal_count": lambda v, span: f"{_count(v, 'payments')} at the terminal in the last {span}",
    "terminal_fraud_count": lambda v, span: f"{_count(v, 'frauds')} became known at the terminal in the last {span}",
    "terminal_fraud_rate": lambda v, span: (
        f"no payment at the terminal was labelled in the last {span}"
        if isnan(v)
        else f"{v:.0%} of the terminal's payments labelled in the last {span} were frauds"
    ),
}
