"""What happened: the events of the recommendation system, as they travel through Kafka in JSON.

    {"interaction_id": "x-000017", "event_timestamp": "2026-10-01T12:03:44Z", "user_id": "u-12", "item_id": "i-88",
     "event_type": "click", "category": "garden", "request_id": "9f2c…", "position": 3}

An interaction carries the category that its item had then, so that folding it needs no catalogue.
"""

from typing import Annotated, Literal

from msgspec import Meta

from whiteboard.events import Alert, Event, Exposure, Identifier, Probability, Timestamp, Watermark

SYSTEM = "recommendation"
INTERACTIONS = "recommendation.interactions"
INTERACTIONS_BY_ITEM = "recommendation.interactions-by-item"
IMPRESSIONS = "recommendation.impressions"
ITEMS = "recommendation.items"
EXPOSURES = "recommendation.exposures"
ALERTS = "recommendation.alerts"

Position = Annotated[int, Meta(ge=1, le=1_000)]
Price = Annotated[float, Meta(ge=0, le=1_000_000)]
Value = Annotated[float, Meta(ge=-1_000_000, le=1_000_000)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Category = Annotated[str, Meta(min_length=1, max_length=64)]
EventType = Literal["view", "click", "purchase", "rating"]
NO_CATEGORY = "other"  # of an item whose catalogue entry names none


class Item(Event, frozen=True, kw_only=True):
    """An item was listed, or its entry changed. Its first category is the main one; `event_timestamp` is when."""

    item_id: Identifier
    event_timestamp: Timestamp
    title: str
    categories: list[Category] = []
    price: Price | None = None


class Interaction(Event, frozen=True, kw_only=True):
    """A user did something with an item; `value` is the price paid for a purchase, the stars of a rating.

    `request_id` and `position` (1 is the top) say which recommendation led to it, where one did.
    """

    interaction_id: Identifier
    event_timestamp: Timestamp
    user_id: Identifier
    item_id: Identifier
    event_type: EventType
    value: Value | None = None
    category: Category = NO_CATEGORY
    request_id: Identifier | None = None
    position: Position | None = None


class Shown(Event, frozen=True, kw_only=True):
    """One item of an impression, with everything needed to recompute why it stood there.

    `source` is the candidate source that proposed it. `propensity` is the probability that this item was shown at this
    position (1 where the policy leaves nothing to chance). `features` are the ranker's inputs (None where undefined),
    `watermark` says which events the item's row held.
    """

    item_id: Identifier
    position: Position
    score: float
    source: str
    category: Category = NO_CATEGORY
    propensity: Probability = 1.0
    features: dict[str, float | None] = {}
    watermark: Watermark = {}


class Impression(Event, frozen=True, kw_only=True):
    """The service answered a request with these items, top first.

    `recent` are the items whose interactions the candidates were drawn from, newest first; `watermark` says which
    events the user's row held. `propensities` of the whole policy stand with the items.
    """

    request_id: Identifier
    event_timestamp: Timestamp
    user_id: Identifier
    items: list[Shown]
    recent: list[str] = []
    candidates: Count
    model_version: str
    experiment: str | None = None
    arm: str | None = None
    degraded: bool = False
    watermark: Watermark = {}
    latency_ms: float


SCHEMAS: dict[str, type[Event]] = {
    "recommendation.item.v1": Item,
    "recommendation.interaction.v1": Interaction,
    "recommendation.impression.v1": Impression,
    "recommendation.exposure.v1": Exposure,
    "recommendation.alert.v1": Alert,
}
