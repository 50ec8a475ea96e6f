"""From a payment and its two feature rows to a decision: features, model, decision, explanation. No HTTP, no waiting.

    decision, hops = score(payment, Rows(customer, terminal, "current"), champion, challenger, exploration=0.05)
    hops    Hops(features=0.00009, model=0.00002, explanation=0.0, produce=0.0), in seconds

When something is missing the answer degrades in this order and says so: rows read a while ago instead of current ones,
entities as if never seen, and a rule on the amount instead of a model.
"""

import logging
import time
from math import isnan
from typing import Literal, NamedTuple

import msgspec
from prometheus_client import Counter

from whiteboard.fraud.decision import Outcome, decide
from whiteboard.fraud.events import Decision, Transaction
from whiteboard.fraud.features import LARGE_AMOUNT, States
from whiteboard.fraud.model import FraudModel
from whiteboard.hotswap import Loaded
from whiteboard.registry import CHALLENGER, CHAMPION
from whiteboard.telemetry import LoopCounter, LoopHistogram
from whiteboard.windows import micros

log = logging.getLogger("fraud")

HOP_SECONDS = LoopHistogram(
    "whiteboard_fraud_hop_seconds",
    "time within a decision",
    ["hop"],
    buckets=(0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1),
)
DECISIONS = LoopCounter(
    "whiteboard_fraud_decisions", "decisions made, by what they were based on", ["decision", "basis"]
)
PROBABILITY = LoopHistogram(
    "whiteboard_fraud_probability",
    "fraud probability of decisions",
    ["alias"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 0.99, 1),
)
MODEL_FAILURES = Counter("whiteboard_fraud_model_failures", "payments that a model failed on", ["alias"])
RULES = "rules"  # the model version of a decision made without a model
for _alias in (CHAMPION, CHALLENGER):
    MODEL_FAILURES.labels(_alias)  # from zero: an increase is seen only in what was there before
# Looking a label up takes longer than counting does.
_SAID = {alias: PROBABILITY.labels(alias) for alias in (CHAMPION, CHALLENGER)}
_DECIDED = {
    (decision, basis): DECISIONS.labels(decision, basis)
    for decision in ("approve", "review", "decline")
    for basis in ("current", "cached", "default", RULES)
}
BASE_RATE = 0.01  # share of frauds, about, where nothing else is known

Basis = Literal["current", "cached", "default"]
Model = Loaded[FraudModel]


class Rows(NamedTuple):
    """The two rows of the feature store (None: never seen), and whether they are what the store holds now.

    `cached` rows were read a while ago; `default` ones are none at all, because the store could not be asked.
    """

    customer: bytes | None
    terminal: bytes | None
    basis: Basis


class Hops(NamedTuple):
    """Seconds within a decision: reading and evaluating, the models, reasons, handing the events to the outbox."""

    features: float
    model: float
    explanation: float
    produce: float = 0.0


class _Verdict(NamedTuple):
    version: str
    probability: float
    outcome: Outcome


def score(
    transaction: Transaction,
    rows: Rows,
    champion: Model | None,
    challenger: Model | None,
    exploration: float,
    started: float | None = None,
) -> tuple[Decision, Hops]:
    """The decision, and the seconds spent since `started` (`time.perf_counter()`, before the rows were read).

    Raises LateEventError for a payment too far in the past.
    """
    started = time.perf_counter() if started is None else started
    basis, states, values = _features(transaction, rows)
    featured = time.perf_counter()
    verdict = _verdict(transaction, champion, values, exploration)
    shadow = None if challenger is None else _probability(CHALLENGER, challenger, values)
    modelled = time.perf_counter()
    reasons = _reasons(verdict, champion, values)
    explained = time.perf_counter()
    hops = Hops(featured - started, modelled - featured, explained - modelled)
    decision = Decision(
        transaction_id=transaction.transaction_id,
        event_timestamp=transaction.event_timestamp,
        customer_id=transaction.customer_id,
        terminal_id=transaction.terminal_id,
        amount=transaction.amount,
        decision=verdict.outcome.decision,
        fraud_probability=verdict.probability,
        propensity=verdict.outcome.propensity,
        model_version=verdict.version,
        challenger_version=challenger.version if challenger is not None and shadow is not None else None,
        challenger_probability=shadow,
        degraded=verdict.version == RULES or basis != "current",
        reasons=reasons,
        features=_without_nan(values),
        watermarks=states.watermarks(),
        latency_ms=round((explained - started) * 1000, 3),
    )
    _DECIDED[decision.decision, RULES if verdict.version == RULES else basis].inc()
    return decision, hops


def _features(transaction: Transaction, rows: Rows) -> tuple[Basis, States, dict[str, float]]:
    amount, t_us = transaction.amount, micros(transaction.event_timestamp)
    try:
        states = States.of(rows.customer, rows.terminal)
    except msgspec.MsgspecError:  # a row that cannot be read is as good as none
        log.exception("feature row unreadable", extra={"transaction_id": transaction.transaction_id})
        states = States.of(None, None)
        return "default", states, states.values(amount, t_us)
    return rows.basis, states, states.values(amount, t_us)


def _without_nan(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has none."""
    if not isnan(sum(values.values())):  # nearly always
        return {**values}
    return {name: None if isnan(value) else value for name, value in values.items()}


def _verdict(
    transaction: Transaction, champion: Model | None, values: dict[str, float], exploration: float
) -> _Verdict:
    probability = None if champion is None else _probability(CHAMPION, champion, values)
    if champion is not None and probability is not None:
        outcome = decide(probability, transaction.transaction_id, champion.model.thresholds, exploration)
        return _Verdict(champion.version, probability, outcome)
    if transaction.amount > LARGE_AMOUNT:  # what is large is looked at; even odds
        return _Verdict(RULES, 0.5, Outcome("review", 1.0))
    return _Verdict(RULES, BASE_RATE, Outcome("approve", 1.0))


def _probability(alias: str, loaded: Model, values: dict[str, float]) -> float | None:
    """The model's probability; None, counted, if it fails: that must not become the client's problem."""
    try:
        probability = loaded.model.predict_one(list(map(values.__getitem__, loaded.model.features)))
        _SAID[alias].observe(probability)
        return probability
    except Exception:  # whatever a model of another version may raise
        MODEL_FAILURES.labels(alias).inc()
        log.exception("model failed", extra={"alias": alias, "version": loaded.version})
        return None


def _reasons(verdict: _Verdict, champion: Model | None, values: dict[str, float]) -> list[str]:
    """Why, in words; empty for an approval, where nobody will ask and half a millisecond is saved."""
    if verdict.outcome.decision == "approve":
        return []
    if champion is None or verdict.version == RULES:
        return [f"amount above {LARGE_AMOUNT:g}"]
    return [reason.text for reason in champion.model.reasons([values[name] for name in champion.model.features])]
