"""What the fraud service takes and gives, as its OpenAPI document shows it.

{"transaction_id": "t-000017", "event_timestamp": "2026-01-31T08:15:00Z", "customer_id": "c-12", …}  in
{"transaction_id": "t-000017", "decision": "approve", "fraud_probability": 0.0021, "reasons": [], …}  out
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict

CLOCK_TOLERANCE = timedelta(minutes=5)  # between a terminal's clock and ours
_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")


def _text(value: object) -> object:
    if not isinstance(value, str) or not _DATE.match(value):  # a bare number would be taken for Unix time
        raise ValueError("send the time as text with its zone, such as 2026-01-31T08:15:00Z")
    return value


def _not_in_the_future(value: datetime) -> datetime:
    if value > datetime.now(UTC) + CLOCK_TOLERANCE:
        raise ValueError("the time lies in the future; send when the payment was made, and check the sender's clock")
    return value


Identifier = Annotated[str, Field(strict=True, min_length=1, max_length=64)]
Moment = Annotated[AwareDatetime, BeforeValidator(_text), AfterValidator(_not_in_the_future)]

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
