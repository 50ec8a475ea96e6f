"""From a payment to a decision: features, model, decision, explanation. No HTTP here.

When a part is missing the answer degrades in a stated order and says so: features of an entity never seen instead of
current ones, then a rule on the amount instead of a model.
"""

import logging
import time
from dataclasses import dataclass
from math import isnan

from prometheus_client import Counter, Histogram

from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.decision import Outcome, decide
from whiteboard.fraud.events import Decision, Transaction
from whiteboard.fraud.features import LARGE_AMOUNT, micros, online_values, watermarks
from whiteboard.fraud.model import FraudModel

log = logging.getLogger("fraud")

HOP_SECONDS = Histogram(
    "whiteboard_fraud_hop_seconds",
    "time within a decision",
    ["hop"],
    buckets=(0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1),
)
DECISIONS = Counter("whiteboard_fraud_decisions", "decisions made", ["decision", "degraded"])
SHADOW_FAILURES = Counter("whiteboard_fraud_shadow_failures", "challenger scores that failed")

RULES = "rules"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model version in memory."""

    version: str
    model: FraudModel


@dataclass(slots=True)
class Scorer:
    """Decides on payments; champion and challenger are replaced while it works, each by one assignment."""

    store: FeatureStore | None
    exploration: float
    champion: LoadedModel | None = None
    challenger: LoadedModel | None = None

    def score(self, transaction: Transaction) -> tuple[Decision, dict[str, float]]:
        """The decision, and the seconds spent by hop. Raises LateEventError for a payment too far in the past."""
        started = time.perf_counter()
        champion, challenger = self.champion, self.challenger  # a swap in between must not mix versions
        customer, terminal, degraded = self._states(transaction)
        values = online_values(transaction.amount, micros(transaction.event_timestamp), customer, terminal)
        featured = time.perf_counter()
        if champion is None:
            degraded, probability, outcome = True, *_rule(transaction.amount)
        else:
            probability = champion.model.predict_one([values[name] for name in champion.model.features])
            outcome = decide(probability, transaction.transaction_id, champion.model.thresholds, self.exploration)
        shadow = _shadow(challenger, values)
        modelled = time.perf_counter()
        reasons: list[str] = []
        if champion is None and outcome.decision != "approve":
            reasons = [f"amount above {LARGE_AMOUNT:g}"]
        elif champion is not None and outcome.decision != "approve":  # 0.5 ms: only where somebody will ask why
            reasons = [r.text for r in champion.model.reasons([values[name] for name in champion.model.features])]
        explained = time.perf_counter()
        hops = {"features": featured - started, "model": modelled - featured, "explanation": explained - modelled}
        for hop, seconds in hops.items():
            HOP_SECONDS.labels(hop).observe(seconds)
        DECISIONS.labels(outcome.decision, str(degraded).lower()).inc()
        decision = Decision(
            transaction_id=transaction.transaction_id,
            event_timestamp=transaction.event_timestamp,
            customer_id=transaction.customer_id,
            terminal_id=transaction.terminal_id,
            amount=transaction.amount,
            decision=outcome.decision,
            fraud_probability=probability,
            propensity=outcome.propensity,
            model_version=champion.version if champion else RULES,
            challenger_version=challenger.version if challenger and shadow is not None else None,
            challenger_probability=shadow,
            degraded=degraded,
            reasons=reasons,
            features={name: None if isnan(value) else value for name, value in values.items()},  # NaN is no JSON
            watermarks=watermarks(customer, terminal),
            latency_ms=(explained - started) * 1000,
        )
        return decision, hops

    def _states(self, transaction: Transaction) -> tuple[bytes | None, bytes | None, bool]:
        """The two rows, and whether they could not be read (then as if both entities were never seen)."""
        if self.store is None:
            return None, None, True
        try:
            customer = self.store.states("fraud_customer").read([transaction.customer_id])[0]
            terminal = self.store.states("fraud_terminal").read([transaction.terminal_id])[0]
        except Exception:  # whatever the store's driver raises, a payment must be answered
            log.exception("feature store failed", extra={"transaction_id": transaction.transaction_id})
            return None, None, True
        return customer, terminal, False


def _rule(amount: float) -> tuple[float, Outcome]:
    """Without a model: review what is large. The probability is the base rate, or 1/2 for a large amount."""
    return (0.5, Outcome("review", 1.0)) if amount > LARGE_AMOUNT else (0.01, Outcome("approve", 1.0))


def _shadow(challenger: LoadedModel | None, values: dict[str, float]) -> float | None:
    """What the challenger would have said; its failure is counted and never reaches the answer."""
    if challenger is None:
        return None
    try:
        return challenger.model.predict_one([values[name] for name in challenger.model.features])
    except Exception:
        SHADOW_FAILURES.inc()
        return None
