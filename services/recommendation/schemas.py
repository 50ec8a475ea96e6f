"""What the recommendation service takes and gives, as its OpenAPI document shows it.

GET /v1/recommendations?user_id=u-12&k=10      {"request_id": "9f2c…", "items": [{"item_id": "i-88", …}, …], …}
POST /v1/interactions                          {"interactions": [{"interaction_id": "x-17", "event_type": "click", …}]}
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from whiteboard.fields import WHOLE, Identifier, Moment

INTERACTION: JsonDict = {
    "interaction_id": "x-000017",
    "event_timestamp": "2026-01-31T08:15:00Z",
    "user_id": "u-12",
    "item_id": "i-88",
    "event_type": "click",
    "request_id": "9f2c",
    "position": 3,
}


MOST = 50  # items of a list


class RecommendationsIn(BaseModel):
    """Whom to recommend to; the parameters of the query."""

    user_id: Identifier
    k: int = Field(10, ge=1, le=MOST, description="length of the list")
    at: Moment | None = Field(None, description="when, for replays; default: now")
    request_id: Identifier | None = Field(None, description="default: the trace id")
    item_id: Identifier | None = Field(None, description="the item of the page, if it is one")


class InteractionIn(BaseModel):
    """Something a user did with an item."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": INTERACTION})

    interaction_id: Identifier = Field(description="the sender's own id; a retry with the same one counts once")
    event_timestamp: Moment = Field(description="when it happened, with its zone")
    user_id: Identifier
    item_id: Identifier
    event_type: Literal["view", "click", "purchase", "rating"] = Field(description="view: it came on screen")
    value: Annotated[float, Field(strict=True, ge=-1_000_000, le=1_000_000, allow_inf_nan=False)] | None = Field(
        None, description="the price paid for a purchase, the stars of a rating"
    )
    request_id: Identifier | None = Field(None, description="of the recommendations that led to it")
    position: Annotated[int, Field(strict=True, ge=1, le=1_000), WHOLE] | None = Field(None, description="1 is the top")


class InteractionsIn(BaseModel):
    """Some interactions, in order of time."""

    model_config = ConfigDict(extra="forbid")

    interactions: Annotated[list[InteractionIn], Field(min_length=1, max_length=50)]


class InteractionsOut(BaseModel):
    """How many were taken, and how many were known already."""

    accepted: int
    duplicates: int


class ItemOut(BaseModel):
    """A recommended item."""

    item_id: str
    title: str
    position: int = Field(description="1 is the top")
    score: float = Field(description="orders within this answer, and means nothing else")
    source: str = Field(description="the candidate source that proposed it; popular, newest or batch without a ranker")
    explored: bool = Field(description="chance put it here")


class RecommendationsOut(BaseModel):
    """The recommendations and how they came about."""

    request_id: str = Field(description="send it along with the interactions that follow")
    user_id: str
    items: list[ItemOut]
    model_version: str = Field(description='the version that ranked; "popularity" and the like where none did')
    experiment: str | None
    arm: str | None
    degraded: bool = Field(description="made without current features or without a model")
    latency_ms: float = Field(description="from the request's start to the finished list")
