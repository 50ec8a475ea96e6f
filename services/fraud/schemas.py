"""What the fraud service takes and gives, as its OpenAPI document shows it.

{"transaction_id": "t-000017", "event_timestamp": "2026-01-31T08:15:00Z", "customer_id": "c-12", …}  in
{"transaction_id": "t-000017", "decision": "approve", "fraud_probability": 0.0021, "reasons": [], …}  out
"""

import time
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from whiteboard.events import Identifier as Id
from whiteboard.fields import Identifier, Moment
from whiteboard.fraud.events import Amount, Transaction
from whiteboard.webapi import validated

_USUAL_TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6})?(Z|[+-]\d\d:\d\d)$"

PAYMENT: JsonDict = {
    "transaction_id": "t-000017",
    "event_timestamp": "2026-01-31T08:15:00Z",
    "customer_id": "c-12",
    "terminal_id": "m-88",
    "amount": 57.16,
}
DECISION: JsonDict = {
    "transaction_id": "t-000017",
    "decision": "review",
    "fraud_probability": 0.2143,
    "reasons": ["amount is 6.3 times the customer's mean", "2 frauds became known at the terminal in the last 7d"],
    "model_version": "3",
    "degraded": False,
    "latency_ms": 0.61,
}


class TransactionIn(BaseModel):
    """A card payment to decide on."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": PAYMENT})

    transaction_id: Identifier = Field(description="the sender's own id; a retry with the same one is recognised")
    event_timestamp: Moment = Field(description="when the payment was made, with its zone")
    customer_id: Identifier
    terminal_id: Identifier
    amount: Annotated[float, Field(strict=True, ge=0, le=1_000_000, allow_inf_nan=False)] = Field(
        description="in account currency"
    )


class DecisionOut(BaseModel):
    """The decision and why."""

    model_config = ConfigDict(json_schema_extra={"example": DECISION})

    transaction_id: str
    decision: Literal["approve", "review", "decline"]
    fraud_probability: float = Field(ge=0, le=1, description="calibrated")
    reasons: list[str] = Field(description="the strongest reasons, in words; empty for an approval")
    model_version: str = Field(description='the version that decided; "rules" while there is no model')
    degraded: bool = Field(description="decided without current features or without a model")
    latency_ms: float = Field(description="from the request's start to the finished decision")


class _Payment(msgspec.Struct, forbid_unknown_fields=True):
    """TransactionIn again, for a decoder that takes a tenth of the time; of the times only the usual form."""

    transaction_id: Id
    event_timestamp: Annotated[str, Meta(pattern=_USUAL_TIME)]
    customer_id: Id
    terminal_id: Id
    amount: Amount


_decode = msgspec.json.Decoder(_Payment).decode


def payment_of(body: bytes, max_clock_skew_s: float) -> Transaction:
    """The payment in a request's body. Raises ProblemError 422 with value and cure of every field that is wrong.

    What the fast decoder does not take is asked of the model that FastAPI shows, which takes it or says why not.
    """
    given: _Payment | TransactionIn
    try:
        given = _decode(body)
        moment = datetime.fromisoformat(given.event_timestamp)
        usual = moment.timestamp() <= time.time() + max_clock_skew_s
    except ValueError:  # msgspec's errors are too
        usual = False
    if not usual:
        given = validated(TransactionIn, body, max_clock_skew_s=max_clock_skew_s)
        moment = given.event_timestamp
    return Transaction(
        transaction_id=given.transaction_id,
        event_timestamp=moment,
        customer_id=given.customer_id,
        terminal_id=given.terminal_id,
        amount=given.amount,
    )
