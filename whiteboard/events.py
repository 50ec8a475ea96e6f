"""What every event is made of: strict fields that mean the same in all systems, and the events that all share.

Each system declares its own events in `whiteboard/<system>/events.py`; they travel through Kafka in JSON. Decoding is
strict: a wrong type, a missing or unknown field, a value out of range is an error, never a guess.
"""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

Identifier = Annotated[str, Meta(min_length=1, max_length=64)]
Timestamp = Annotated[datetime, Meta(tz=True)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Watermark = dict[str, tuple[int, dict[str, int]]]  # topic → (epoch of the log, {partition: last offset folded in})

ERASED = "~erased~"  # stands for the ids of an erased person, and of the events that are nobody's since (erasures.py)


class Event(Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all events: immutable, every field named, unknown fields refused."""


class Exposure(Event, frozen=True, kw_only=True):
    """A unit met its arm of an experiment: from here on its outcomes count."""

    experiment: Identifier
    unit_id: Identifier
    arm: Identifier
    event_timestamp: Timestamp


class Alert(Event, frozen=True, kw_only=True):
    """The monitor asks for a retrain: what it saw, on which day of the event clock, beyond which limit.

    A rollback asks for nothing: `value` is the quality of the version that served, `limit` that of the version before.
    """

    event_timestamp: Timestamp
    kind: Literal["drift", "quality", "parity", "rollback"]
    model_version: str
    value: float
    limit: float
    message: str
