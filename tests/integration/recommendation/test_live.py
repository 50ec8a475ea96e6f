"""A recommendation stack that is kept: bootstrapped once whatever interrupts it, then fed by traffic that goes on."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import pandas as pd
import pytest

from pipelines.recommendation.bootstrap import KEYS, bootstrap
from services.traffic.recommendation import RecommendationTraffic
from tests.conftest import PATIENCE_S
from whiteboard.embedded import EmbeddedStack
from whiteboard.eventlog import EventProducer, create_topics
from whiteboard.featurestore import FeatureStore
from whiteboard.lake import Lake, connect
from whiteboard.processes import free_port, url_answers, wait_until
from whiteboard.recommendation.events import IMPRESSIONS, INTERACTIONS, ITEMS, SCHEMAS
from whiteboard.recommendation.ingest import ingest
from whiteboard.recommendation.live import LiveConfig, LiveWorld
from whiteboard.recommendation.traffic import FeedClient
from whiteboard.settings import Settings

SIZED = LiveConfig.sized(users=400)
CONFIG = replace(SIZED, world=replace(SIZED.world, items=120))
DAY_S = 86_400.0


class Kept(NamedTuple):
    """A bootstrapped stack with its service."""

    settings: Settings
    port: int
    steps: list[str]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    with EmbeddedStack(Settings(home=tmp_path_factory.mktemp("home"), deadline_ms=20_000)) as stack:
        settings = stack.start_broker()
        create_topics(settings)
        FeatureStore.apply(settings)
        stack.start("stream-1", "services.stream.worker", "--metrics-port", "0", "--system", "recommendation")
        live = LiveWorld.founded(settings, CONFIG)
        some = live.history.interactions.iloc[:2_000]
        ingest(settings, listed(live).iloc[:50], some)  # and here it was killed
        wait_until(lambda: len(ids(settings, INTERACTIONS)) == len(some), "they are in the lake", PATIENCE_S)
        steps: list[str] = []
        bootstrap(settings, CONFIG, say=steps.append)
        port = free_port()
        ready = url_answers(f"http://127.0.0.1:{port}/health/ready")
        stack.start("recommendation", "services.recommendation.app", "--port", str(port), ready=ready)
        yield Kept(settings, port, steps)


def listed(live: LiveWorld) -> pd.DataFrame:
    """The items of the history."""
    return live.history.items[live.history.items["event_timestamp"] < live.begins]


def ids(settings: Settings, topic: str) -> list[str]:
    kind, key = KEYS[topic]
    with connect() as connection:
        relation = Lake(settings.lake_dir).relation(topic, kind)
        return [row[0] for row in connection.sql(f"SELECT {key} FROM {relation} ORDER BY 1").fetchall()]


def test_interrupted_bootstrap_goes_on_and_sends_nothing_twice(kept: Kept) -> None:
    live = LiveWorld.of(kept.settings)
    sent = {topic: [i for i in ids(kept.settings, topic) if not i.startswith(("r-", "f-"))] for topic in KEYS}
    assert sent[INTERACTIONS] == sorted(live.history.interactions["interaction_id"])
    assert sent[IMPRESSIONS] == sorted(live.history.shown["request_id"].unique())
    assert sent[ITEMS] == sorted(listed(live)["item_id"])


def test_bootstrap_with_a_champion_does_nothing(kept: Kept) -> None:
    before, steps = len(ids(kept.settings, INTERACTIONS)), list[str]()
    assert bootstrap(kept.settings, CONFIG, say=steps.append) == "1"
    assert steps == ["version 1 is champion already"]
    assert len(ids(kept.settings, INTERACTIONS)) == before


def test_traffic_goes_on_where_the_lake_ends(kept: Kept) -> None:
    live = LiveWorld.of(kept.settings)

    def days(client: FeedClient, count: int) -> tuple[set[str], pd.Timestamp]:
        """What a traffic generator that begins anew asks for in `count` days, and what its clock shows then."""
        traffic, served = RecommendationTraffic(kept.settings, client, speed=DAY_S), set[str]()
        with EventProducer(kept.settings, "test", SCHEMAS) as producer:
            for _ in range(count):
                traffic.advance(1.0)
                answers = traffic.send_due(producer)
                assert answers.failures == []
                served |= {one.request.request_id for one in answers.served}
        found = {f.interaction_id for day in range(4) for f in live.audience.finds(CONFIG.history_days + day)
                 if f.event_timestamp < traffic.clock}  # fmt: skip
        wait_until(lambda: served <= set(ids(kept.settings, IMPRESSIONS)), "the impressions are in the lake")
        wait_until(lambda: found <= set(ids(kept.settings, INTERACTIONS)), "what users found alone is in the lake")
        return served, traffic.clock

    with FeedClient(kept.port) as client:
        first, _ = days(client, 2)
        second, clock = days(client, 2)
    assert clock > live.begins + pd.Timedelta(days=3)
    assert first.isdisjoint(second)
    begun = CONFIG.history_days
    due = {r.request_id for day in range(4) for r in live.audience.requests(begun + day) if r.event_timestamp < clock}
    assert first | second == due
    finds = {f.interaction_id for day in range(4) for f in live.audience.finds(begun + day)}
    found = [i for i in ids(kept.settings, INTERACTIONS) if i in finds]
    assert len(found) == len(set(found)) > 0
