"""What the fraud service takes and gives, as its OpenAPI document shows it.

{"transaction_id": "t-000017", "event_timestamp": "2026-01-31T08:15:00Z", "customer_id": "c-12", …}  in
{"transaction_id": "t-000017", "decision": "approve", "fraud_probability": 0.0021, "reasons": [], …}  out
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from whiteboard.fields import Identifier, Moment

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
