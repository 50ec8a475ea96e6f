"""What happened: the events of the fraud system, as they travel through Kafka in JSON.

    {"transaction_id": "t-000017", "event_timestamp": "2026-10-01T12:03:44Z", "customer_id": "c-12",
     "terminal_id": "m-88", "amount": 57.16}

Decoding is strict: a wrong type, a missing or unknown field, a negative or absurd amount is an error, never a guess.
"""

from typing import Annotated, Literal

from msgspec import Meta

from whiteboard.events import Alert, Event, Identifier, Probability, Timestamp, Watermark

SYSTEM = "fraud"
TRANSACTIONS = "fraud.transactions"
TRANSACTIONS_BY_TERMINAL = "fraud.transactions-by-terminal"
LABELS = "fraud.labels"
DECISIONS = "fraud.decisions"
ALERTS = "fraud.alerts"

Amount = Annotated[float, Meta(ge=0, le=1_000_000)]
Action = Literal["approve", "review", "decline"]


class Transaction(Event, frozen=True, kw_only=True):
    """A card payment was attempted. `amount` is in account currency."""

    transaction_id: Identifier
    event_timestamp: Timestamp
    customer_id: Identifier
    terminal_id: Identifier
    amount: Amount


class Label(Event, frozen=True, kw_only=True):
    """It became known at `event_timestamp` whether the transaction made at `transaction_timestamp` was a fraud."""

    transaction_id: Identifier
    event_timestamp: Timestamp
    transaction_timestamp: Timestamp
    customer_id: Identifier
    terminal_id: Identifier
    amount: Amount
    is_fraud: bool
    source: Literal["history", "chargeback", "review"] = "history"


class Decision(Event, frozen=True, kw_only=True):
    """The fraud service decided, with everything needed to recompute why.

    `features` are the model's inputs (None where a value is undefined). `watermarks` say which events the service had
    seen: per entity (`customer`, `terminal`) and source topic, the log's epoch and the last offset by partition.
    `propensity` is the probability that this action was taken (below 1 where a decline was waived to keep learning).
    """

    transaction_id: Identifier
    event_timestamp: Timestamp
    customer_id: Identifier
    terminal_id: Identifier
    amount: Amount
    decision: Action
    fraud_probability: Probability
    propensity: Probability = 1.0
    model_version: str
    challenger_version: str | None = None
    challenger_probability: Probability | None = None
    degraded: bool = False
    reasons: list[str] = []
    features: dict[str, float | None]
    watermarks: dict[str, Watermark]
    latency_ms: float


SCHEMAS: dict[str, type[Event]] = {
    "fraud.transaction.v1": Transaction,
    "fraud.label.v1": Label,
    "fraud.decision.v1": Decision,
    "fraud.alert.v1": Alert,
}
