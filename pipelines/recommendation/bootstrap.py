"""The recommendation system's first champion, from a simulated world's history (whiteboard/bootstrap.py has the steps).

version = bootstrap(settings, LiveConfig.sized(), say=print)        # "1"

Its lists for all users are made too: they are served where the service cannot rank.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta

from msgspec import Struct

from pipelines.recommendation.batch_score import score_day
from pipelines.recommendation.dataset import build
from pipelines.recommendation.promote import promote
from pipelines.recommendation.train import TrainConfig, train
from whiteboard.bootstrap import Bootstrap, Held
from whiteboard.promotion import Verdict
from whiteboard.recommendation.events import (
    IMPRESSIONS,
    INTERACTIONS,
    ITEMS,
    SYSTEM,
    Impression,
    Interaction,
    Item,
)
from whiteboard.recommendation.ingest import OnProgress, ingest
from whiteboard.recommendation.live import LiveConfig, LiveWorld
from whiteboard.settings import Settings

KEYS: Mapping[str, tuple[type[Struct], str]] = {
    ITEMS: (Item, "item_id"),
    INTERACTIONS: (Interaction, "interaction_id"),
    IMPRESSIONS: (Impression, "request_id"),
}


def bootstrap(
    settings: Settings,
    config: LiveConfig,
    *,
    say: Callable[[str], None] = lambda step: None,
    progress: OnProgress = lambda done, total: None,
) -> str:
    """The version that is champion in the end; `say` hears each step, `progress` the events sent.

    Raises as Bootstrap does.
    """

    def send(held: Held) -> int:
        live = LiveWorld.founded(settings, config)
        items, interactions, shown = live.history.items, live.history.interactions, live.history.shown
        items = items[items["event_timestamp"] < live.begins]
        ingest(
            settings,
            items[~items["item_id"].isin(held[ITEMS])],
            interactions[~interactions["interaction_id"].isin(held[INTERACTIONS])],
            shown[~shown["request_id"].isin(held[IMPRESSIONS])],
            progress=progress,
        )
        return len(items) + len(interactions) + shown["request_id"].nunique()

    def fit() -> str:
        return train(settings, build(settings), TrainConfig(seed=config.world.seed)).version

    def judge(version: str) -> Verdict:
        verdict = promote(settings, version)
        if verdict.promoted:
            say("recommends to all users in batch")
            score_day(settings, LiveWorld.of(settings).begins.date() - timedelta(days=1))
        return verdict

    return Bootstrap(settings, SYSTEM, KEYS, say).run(send, fit, judge, config.history_days)
