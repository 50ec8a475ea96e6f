"""A past for the tests of the offline path: a simulated world laid straight into the lake, without Kafka."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from tests.integration.fraud.history import into_lake
from whiteboard.featurestore import FeatureStore
from whiteboard.lake import Lake
from whiteboard.recommendation.events import (
    IMPRESSIONS,
    INTERACTIONS,
    ITEMS,
    Impression,
    Interaction,
    Item,
)
from whiteboard.recommendation.population import WorldConfig
from whiteboard.recommendation.world import World, simulate
from whiteboard.settings import Settings


def lived_in(home: Path, config: WorldConfig, days: int) -> tuple[Settings, World]:
    """A home with the feature repo applied and a lake that holds the first `days` of the world."""
    settings, world = Settings(home=home), simulate(config, days)
    FeatureStore.apply(settings)
    lake = Lake(settings.lake_dir)
    items = world.items.assign(
        categories=[json.dumps(names.split("|")) for names in world.items["categories"]],
        created_timestamp=world.items["event_timestamp"],
    )
    until = world.interactions["event_timestamp"].max()
    known = items[items["event_timestamp"] <= until].sort_values("event_timestamp", kind="stable")
    into_lake(lake, ITEMS, Item, known)
    made = world.interactions
    into_lake(lake, INTERACTIONS, Interaction, made.assign(created_timestamp=made["event_timestamp"]))
    into_lake(lake, IMPRESSIONS, Impression, _impressions(world))
    return settings, world


def _impressions(world: World) -> pd.DataFrame:
    category = dict(zip(world.items["item_id"], world.items["categories"], strict=True))
    rows = []
    for request_id, shown in world.shown.groupby("request_id", sort=False):
        items = [
            {"item_id": item, "position": int(place), "score": 0.0, "source": "history", "category": category[item],
             "propensity": float(chance), "features": {}, "watermark": {}}
            for item, place, chance in zip(shown["item_id"], shown["position"], shown["propensity"], strict=True)
        ]  # fmt: skip
        at = shown["event_timestamp"].iloc[0]
        rows.append(
            {"request_id": request_id, "event_timestamp": at, "created_timestamp": at, "recent": "[]",
             "user_id": shown["user_id"].iloc[0], "items": json.dumps(items), "candidates": len(items),
             "model_version": "history", "degraded": False, "watermark": "{}", "latency_ms": 0.0}
        )  # fmt: skip
    return pd.DataFrame(rows)


def lay_down(settings: Settings, shown: Sequence[Impression], done: Sequence[Interaction]) -> None:
    """Puts what a service has shown, and what came of it, into the lake of another home."""
    lake = Lake(settings.lake_dir)
    for topic, kind, events in ((IMPRESSIONS, Impression, shown), (INTERACTIONS, Interaction, done)):
        frame = pd.DataFrame([{name: _plain(getattr(one, name)) for name in kind.__struct_fields__} for one in events])
        into_lake(lake, topic, kind, frame.assign(created_timestamp=frame["event_timestamp"]))


def _plain(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, list | dict) else value
