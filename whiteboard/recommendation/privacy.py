"""Whose data the recommendation system holds, and what is left of an interaction once its user was erased: that it was.

An item's features count views, likes and purchases, whoever made them; these numbers were read for other users' lists,
and stay.
"""

from whiteboard.erasures import Subject, erased
from whiteboard.recommendation.events import Interaction

USER = Subject(
    name="user",
    columns=("user_id", "unit_id"),
    views=("recommendation_user", "recommendation_batch"),
    time=lambda event: event.event_timestamp,
    remains={
        Interaction: {
            "interaction_id": erased,
            "user_id": erased,
            "value": lambda _: None,
            "request_id": lambda _: None,
            "position": lambda _: None,
        }
    },
)
