"""What the fraud service takes and gives, as its OpenAPI document shows it."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

CLOCK_TOLERANCE = timedelta(minutes=5)  # between a terminal's clock and ours


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("send the time as text with its zone, such as 2026-01-31T08:15:00Z")
    return value


def _not_in_the_future(value: datetime) -> datetime:
    if value > datetime.now(UTC) + CLOCK_TOLERANCE:
        raise ValueError("the time lies in the future; send when the payment was made, and check the sender's clock")
    return value


Identifier = Annotated[str, Field(strict=True, min_length=1, max_length=64)]
Moment = Annotated[AwareDatetime, BeforeValidator(_text), AfterValidator(_not_in_the_future)]


class TransactionIn(BaseModel):
    """A card payment to decide on."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "transaction_id": "t-000017",
                "event_timestamp": "2026-01-31T08:15:00Z",
                "customer_id": "c-12",
                "terminal_id": "m-88",
                "amount": 57.16,
            }
        },
    )

    transaction_id: Identifier
    event_timestamp: Moment
    customer_id: Identifier
    terminal_id: Identifier
    amount: Annotated[float, Field(strict=True, ge=0, le=1_000_000, allow_inf_nan=False)]


class DecisionOut(BaseModel):
    """The decision and why."""

    transaction_id: str
    decision: Literal["approve", "review", "decline"]
    fraud_probability: float = Field(description="calibrated")
    reasons: list[str] = Field(description="the strongest reasons, in words; empty for an approval")
    model_version: str = Field(description='the version that decided; "rules" while there is no model')
    degraded: bool = Field(description="decided without current features or without a model")
    latency_ms: float
