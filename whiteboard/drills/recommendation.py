"""The recommendation system on the drill stage: a world's users, what they do with their lists, nDCG against the truth.

What quality means here: the world knows how likely each user would click each item at that moment. A list's nDCG is its
discounted relevance by that truth, against the best list of all that is listed. The same requests are asked once more
when everything is sound again, with the same user and moment: what a sound system would have shown. The difference of
the two means is the cost.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec

from whiteboard.drills.outcome import Quality
from whiteboard.drills.stage import Found, Stage
from whiteboard.drills.traffic import HTTP_OK, Ask, Reply
from whiteboard.eventlog import EventProducer
from whiteboard.httpclient import Connection, exchange
from whiteboard.recommendation.audience import Request
from whiteboard.recommendation.events import IMPRESSIONS, INTERACTIONS, SCHEMAS, SYSTEM, Impression, Interaction
from whiteboard.recommendation.ingest import send_interaction
from whiteboard.recommendation.live import LiveConfig, LiveWorld
from whiteboard.recommendation.monitor import RecommendationMonitor
from whiteboard.recommendation.population import WorldConfig
from whiteboard.recommendation.routes import ROUTES
from whiteboard.settings import Settings

NEVER = 10_000  # days
ASKED_AGAIN = 400  # requests of a drill at most, when all is sound: they are a sample of those during the fault


def world(users: int, history_days: int, seed: int) -> LiveConfig:
    """A small world whose tastes stay as they are, and whose users come often: a few seconds are some hours."""
    config = WorldConfig(
        users=users, items=max(200, users * 5 // 4), seed=seed, requests_per_user_day=2.0, organic_per_user_day=0.3
    )
    return LiveConfig(config, history_days, traffic_days=110, shift_after_days=NEVER)


class RecommendationStage(Stage):
    """Two recommendation services, two workers, the users of a world."""

    system, routes, decisions = SYSTEM, ROUTES, IMPRESSIONS
    key, entity = "request_id", "user_id"
    recorded = {IMPRESSIONS: (Impression, "request_id")}  # noqa: RUF012

    def __init__(self, settings: Settings, found: Found) -> None:
        super().__init__(settings, found)
        self._asked: dict[str, Request] = {}
        self._clock = datetime.min
        self._probes = 0

    @cached_property
    def live(self) -> LiveWorld:
        """The world that the history came from."""
        return LiveWorld.of(self.settings)

    def asks(self) -> Iterator[Ask]:
        first = self.live.config.history_days
        for day in range(first, self.live.config.world.days):
            for request in self.live.audience.requests(day):
                self._asked[request.request_id] = request
                self._clock = request.event_timestamp
                yield _ask(request, request.request_id)

    def at_once(self, asks: list[Ask]) -> list[Ask]:
        first = self._asked[asks[0].about["request_id"]].event_timestamp
        for number, ask in enumerate(asks):
            request = self._asked[ask.about["request_id"]]
            at = first + timedelta(milliseconds=number)
            self._asked[request.request_id] = replace(request, event_timestamp=at)
        return [_ask(self._asked[ask.about["request_id"]], ask.about["request_id"]) for ask in asks]

    def catch_up(self, replies: list[Reply]) -> None:
        """Sends what users did with the lists that they were shown."""
        with EventProducer(self.settings, "drill", SCHEMAS) as producer:
            for reply in replies:
                if not reply.ok or reply.about["request_id"] not in self._asked:
                    continue
                shown = [item["item_id"] for item in reply.body["items"]]
                for event in self.live.audience.react(self._asked[reply.about["request_id"]], shown):
                    send_interaction(producer, event, created_us=time.time_ns() // 1000)

    @property
    def clock(self) -> datetime:
        return self._clock

    def probe(self, at: datetime) -> int:
        self._probes += 1
        asked = {"user_id": f"probe-{self._probes}", "at": at.isoformat(), "request_id": f"probe-{self._probes}"}
        with self._connection() as connection:
            return exchange(connection, "GET", f"/v1/recommendations?{urlencode(asked)}")[0]

    def sample(self) -> tuple[str, bytes, dict[str, bytes]]:
        begins = self.live.begins.to_pydatetime()
        clicked = Interaction(
            interaction_id="nobody", event_timestamp=begins, user_id="nobody", item_id="nothing", event_type="click"
        )
        return INTERACTIONS, msgspec.json.encode(clicked), {"schema": b"recommendation.interaction.v1", "trace": b""}

    def turn_round(self, champion: Path, bad: Path) -> None:
        raise NotImplementedError("no drill of this system asks for it")

    def monitor(self) -> RecommendationMonitor:
        return RecommendationMonitor(self.settings)

    def quality(self, replies: list[Reply]) -> Quality:
        answered = [r for r in replies if r.ok]
        step = max(1, len(answered) // ASKED_AGAIN)
        sample = answered[::step]
        again = self._again([self._asked[r.about["request_id"]] for r in sample])
        pairs = [
            (self._ndcg(reply.about["request_id"], reply.body), self._ndcg(reply.about["request_id"], sound))
            for reply, sound in zip(sample, again, strict=True)
            if sound is not None
        ]
        during, healthy = (sum(side) / len(pairs) for side in zip(*pairs, strict=True)) if pairs else (None, None)
        degraded = sum(reply.degraded for reply in sample)
        return Quality("nDCG@10 by the truth", during, healthy, len(pairs), len(pairs), degraded)

    def _ndcg(self, request_id: str, answer: Mapping[str, Any]) -> float:
        shown = [item["item_id"] for item in answer["items"]]
        return self.live.audience.ndcg(self._asked[request_id], shown) if shown else 0.0

    def _again(self, requests: list[Request]) -> list[dict[str, Any] | None]:
        """The answers to these requests now; None for one that is not answered soundly."""
        found: list[dict[str, Any] | None] = []
        with self._connection() as connection:
            for request in requests:
                status, body = exchange(connection, "GET", _ask(request, f"{request.request_id}-again").path)
                answer: dict[str, Any] = json.loads(body) if status == HTTP_OK else {"degraded": True}
                found.append(None if answer["degraded"] else answer)
        return found

    def _connection(self) -> "closing[Connection]":
        return closing(Connection("127.0.0.1", next(iter(self.replicas.values())), timeout_s=10))


def _ask(request: Request, request_id: str) -> Ask:
    asked = {"user_id": request.user_id, "at": request.event_timestamp.isoformat(), "request_id": request_id}
    about = {"request_id": request_id, "user_id": request.user_id, "event_timestamp": asked["at"]}
    return Ask("GET", f"/v1/recommendations?{urlencode(asked)}", b"", about)
