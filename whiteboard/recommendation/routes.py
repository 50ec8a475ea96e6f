"""Which recommendation events go where in the stream worker: into which entity's row, onto which topic, into the lake.

recommendation.interactions ──► user rows   ──► recommendation.interactions-by-item ──► item rows
items, interactions, impressions, exposures ──► lake
"""

from whiteboard.events import Exposure
from whiteboard.recommendation.events import (
    EXPOSURES,
    IMPRESSIONS,
    INTERACTIONS,
    INTERACTIONS_BY_ITEM,
    ITEMS,
    SCHEMAS,
    SYSTEM,
    Impression,
    Interaction,
    Item,
)
from whiteboard.recommendation.features import ITEM_FOLD, USER_FOLD
from whiteboard.streams import Route, Routes

USER_VIEW, ITEM_VIEW, BATCH_VIEW = "recommendation_user", "recommendation_item", "recommendation_batch"

ROUTES = Routes(
    system=SYSTEM,
    schemas=SCHEMAS,
    folded=(
        Route(topic=INTERACTIONS, key="user_id", fold=USER_FOLD, view=USER_VIEW),
        Route(topic=INTERACTIONS_BY_ITEM, key="item_id", fold=ITEM_FOLD, view=ITEM_VIEW),
    ),
    rekeyed={INTERACTIONS: (INTERACTIONS_BY_ITEM, "item_id")},
    sunk={ITEMS: Item, INTERACTIONS: Interaction, IMPRESSIONS: Impression, EXPOSURES: Exposure},
)
