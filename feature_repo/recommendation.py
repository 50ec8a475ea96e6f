"""Recommendation features in Feast: the same two shapes as fraud's, for users and items.

`recommendation_batch` holds what the nightly job recommends to each user: served where the online path cannot answer.
"""

from entities import item, shown, user
from feast import FeatureService
from views import point_in_time, state, values, version_services

from whiteboard.recommendation.features import FEATURES, ITEM_FOLD, USER_FOLD

TILES = "window tiles and watermark, msgpack (whiteboard/windows.py)"
recommendation_user = state("recommendation_user", user, TILES)
recommendation_item = state("recommendation_item", item, TILES)
recommendation_batch = state("recommendation_batch", user, "the night's recommendations, JSON")

source = point_in_time("recommendation")
_of_shown = [f for f in FEATURES if f not in USER_FOLD.features and f not in ITEM_FOLD.features]
recommendation_shown_values = values("recommendation_shown_values", [shown], _of_shown, source)
recommendation_user_values = values("recommendation_user_values", [user, shown], USER_FOLD.features, source)
recommendation_item_values = values("recommendation_item_values", [item, shown], ITEM_FOLD.features, source)

_views = [recommendation_shown_values, recommendation_user_values, recommendation_item_values]
recommendation_training = FeatureService(
    name="recommendation_training", features=_views, description="every feature: what a training set is drawn from"
)
globals().update(version_services("recommendation", _views))
