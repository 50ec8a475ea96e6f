"""Users who ask for recommendations as their time comes and react to what they are shown.

New items and what users find alone go through Kafka. After a restart it goes on where the lake says that impressions
end; it has no state of its own.
"""

import time

import pandas as pd
from msgspec import Struct

from services.traffic.generator import EVENTS, REQUESTS, Traffic
from whiteboard.eventlog import EventProducer
from whiteboard.lake import Lake, connect
from whiteboard.recommendation.audience import Request
from whiteboard.recommendation.events import (
    IMPRESSIONS,
    INTERACTIONS,
    ITEMS,
    SYSTEM,
    Impression,
    Interaction,
    Item,
)
from whiteboard.recommendation.ingest import send_interaction, send_item
from whiteboard.recommendation.live import LiveWorld
from whiteboard.recommendation.traffic import Answers, FeedClient
from whiteboard.settings import Settings

RESENT = pd.Timedelta(hours=1)  # before the last impression: what failed then, or was cut off by the end of the process


class RecommendationTraffic(Traffic):
    """The users of a home's world."""

    system = SYSTEM

    def __init__(self, settings: Settings, client: FeedClient, speed: float) -> None:
        super().__init__(speed)
        self._client, self._live = client, LiveWorld.of(settings)
        lake = Lake(settings.lake_dir)
        served = _known(lake, IMPRESSIONS, Impression, "request_id")
        self.clock = max(self._live.begins, served["event_timestamp"].max())
        self._sent_until = max(self._live.begins, self.clock - RESENT)
        self._known = set(served["request_id"])
        self._known |= set(_known(lake, INTERACTIONS, Interaction, "interaction_id")["interaction_id"])
        listed = _known(lake, ITEMS, Item, "item_id")["item_id"]
        items = self._live.history.items.sort_values("event_timestamp", kind="stable")
        self._items = items[~items["item_id"].isin(listed)]
        self._day = -1
        self._requests: list[Request] = []
        self._finds: list[Interaction] = []

    @property
    def ended(self) -> bool:
        """Whether the world's last day is over."""
        return self._sent_until >= self._live.midnight(self._live.config.world.days)

    def tick(self, producer: EventProducer) -> None:
        """Sends the items, the finds, then the requests that are due; and the reactions to their answers."""
        self.send_due(producer)

    def send_due(self, producer: EventProducer) -> Answers:
        """As `tick`; the answers to the requests. Day after day, as the audience knows its requests by day."""
        answers = Answers()
        while self._sent_until < self.clock and not self.ended:
            day = (self._sent_until - self._live.midnight(0)).days
            until = min(self.clock, self._live.midnight(day + 1))
            answers.extend(self._send(producer, day, until))
            self._sent_until = until
        return answers

    def _send(self, producer: EventProducer, day: int, until: pd.Timestamp) -> Answers:
        if day != self._day:
            requests, finds = self._live.audience.requests(day), self._live.audience.finds(day)
            self._day, self._requests = day, [r for r in requests if r.request_id not in self._known]
            self._finds = [f for f in finds if f.interaction_id not in self._known]

        def due(event: Request | Interaction) -> bool:
            return bool(self._sent_until <= event.event_timestamp < until)

        items = self._items[self._items["event_timestamp"] < until]
        for row in items.to_dict("records"):
            send_item(producer, {str(name): value for name, value in row.items()})
        finds = list(filter(due, self._finds))
        for event in finds:
            send_interaction(producer, event, created_us=time.time_ns() // 1000)
        producer.flush()
        self._items = self._items.iloc[len(items) :]
        EVENTS.labels(self.system, ITEMS).inc(len(items))
        EVENTS.labels(self.system, INTERACTIONS).inc(len(finds))
        answers = self._client.browse(filter(due, self._requests), self._live.audience.react)
        self.answered(answers.latencies_ms, answers.failures)
        for one in answers.served:
            REQUESTS.labels(self.system, "degraded" if one.answer["degraded"] else "served").inc()
        return answers


def _known(lake: Lake, topic: str, kind: type[Struct], key: str) -> pd.DataFrame:
    """The ids of a topic in the lake, with their event_timestamp."""
    with connect() as connection:
        known: pd.DataFrame = connection.sql(f"SELECT {key}, event_timestamp FROM {lake.relation(topic, kind)}").df()
    return known
