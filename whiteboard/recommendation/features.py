"""The features of an item shown to a user, declared once: online fold, online value and SQL come from these lines.

    whiteboard recommendation features          the list
    whiteboard recommendation features --sql    the SQL that computes them point in time; --dialect spark: Spark's

A user's row holds the user's own interactions, also by category and by item; an item's row holds everybody's. A *like*
is a click, a purchase or a rating: each says more than that something came on screen (a view). What the request knows
(price, age, the scores of the candidate sources) is context: it goes into the ranker, and is logged, as it is.

A request for hundreds of candidates reads a user's row once (`UserValues`), each item's row once (its values change
only with the row and with `item_tile`, so a service may keep them), and `candidate_matrix` joins them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whiteboard.dialects import DUCKDB, Dialect
from whiteboard.events import Watermark
from whiteboard.recommendation.events import INTERACTIONS, Interaction
from whiteboard.windows import (
    DAY,
    HOUR,
    MINUTE,
    EntityFold,
    Group,
    Measure,
    Recent,
    Row,
    SinceLast,
    Stream,
    Window,
    WindowFeature,
    micros,
    windowed,
)
from whiteboard.windows_sql import Visibility, point_in_time, recent_sql, unseen_sql

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RECENT = 50  # items that a user's row remembers: what candidates are drawn from
FRESH_DAYS = 7.0  # an item is new
MAX_AGE_DAYS = 90.0  # an older item is not told from one of that age
_PRIOR_VIEWS, _PRIOR_LIKES = 20.0, 1.0  # what an item's click-through starts from

_HOUR_1 = Window("1h", HOUR, 5 * MINUTE)
_HOURS_6 = Window("6h", 6 * HOUR, HOUR)
_DAY_1 = Window("1d", DAY, HOUR)
_DAYS_3 = Window("3d", 3 * DAY, DAY)
_DAYS_7 = Window("7d", 7 * DAY, DAY)
_DAYS_30 = Window("30d", 30 * DAY, DAY)


def _cents_paid(event: Interaction) -> int:
    paid = event.event_type == "purchase" and event.value is not None
    return floor(event.value * 100 + 0.5) if paid and event.value is not None else 0


_VIEW = Measure("view", lambda e: int(e.event_type == "view"), "(event_type = 'view')::BIGINT")
_LIKE = Measure("liked", lambda e: int(e.event_type != "view"), "(event_type <> 'view')::BIGINT")
_PURCHASE = Measure("purchase", lambda e: int(e.event_type == "purchase"), "(event_type = 'purchase')::BIGINT")
_PAID = Measure(
    "paid",
    _cents_paid,
    "CASE WHEN event_type = 'purchase' THEN floor(coalesce(value, 0) * 100 + 0.5)::BIGINT ELSE 0 END",
    scale=100,
)


def _stream(name: str, entity: str, **of: Any) -> Stream:
    return Stream(
        name=name,
        topic=INTERACTIONS,
        entity=entity,
        time=lambda e: micros(e.event_timestamp),
        time_sql="epoch_us(event_timestamp)",
        **of,
    )


USER = _stream(
    "user_interactions",
    "user",
    measures=(_VIEW, _PURCHASE, _PAID),
    features=(
        *windowed("user_views", (_DAY_1, _DAYS_7), function="sum", measure="view"),
        WindowFeature("user_purchases_30d", _DAYS_30, "sum", "purchase"),
        WindowFeature("user_paid_30d", _DAYS_30, "sum", "paid"),
        SinceLast("seconds_since_user_last", cap=30 * DAY),
    ),
)
USER_LIKES = _stream(
    "user_likes",
    "user",
    where=_LIKE,
    measures=(),
    features=windowed("user_likes", (_HOUR_1, _DAY_1, _DAYS_7, _DAYS_30)),
    recent=Recent(RECENT, of=lambda e: e.item_id, sql="item_id"),
)
USER_CATEGORIES = _stream(  # the taste of the hour, of the week, of the month
    "user_categories",
    "user",
    where=_LIKE,
    group=Group(of=lambda e: e.category, sql="category", column="category"),
    measures=(),
    features=windowed("user_category_likes", (_HOUR_1, _DAYS_7, _DAYS_30)),
)
USER_ITEM_VIEWS = _stream(  # seen and not taken, again and again: what frequency capping counts
    "user_item_views",
    "user",
    where=_VIEW,
    group=Group(of=lambda e: e.item_id, sql="item_id", column="item_id"),
    measures=(),
    features=(WindowFeature("user_item_views_3d", _DAYS_3),),
)
USER_ITEM_LIKES = _stream(  # what was consumed and need not be recommended again
    "user_item_likes",
    "user",
    where=_LIKE,
    group=Group(of=lambda e: e.item_id, sql="item_id", column="item_id"),
    measures=(),
    features=(WindowFeature("user_item_likes_30d", _DAYS_30),),
)
ITEM = _stream(
    "item_interactions",
    "item",
    measures=(_VIEW, _LIKE, _PURCHASE),
    features=(
        *windowed("item_views", (_DAY_1, _DAYS_7), function="sum", measure="view"),
        *windowed("item_likes", (_HOURS_6, _DAY_1, _DAYS_7, _DAYS_30), function="sum", measure="liked"),
        WindowFeature("item_purchases_7d", _DAYS_7, "sum", "purchase"),
    ),
)

USER_STREAMS = (USER, USER_LIKES, USER_CATEGORIES, USER_ITEM_VIEWS, USER_ITEM_LIKES)
STREAMS = (*USER_STREAMS, ITEM)
USER_FOLD = EntityFold("user", USER_STREAMS)
ITEM_FOLD = EntityFold("item", (ITEM,))

GROUPED = tuple(f.name for s in USER_STREAMS if s.group is not None for f in s.features)
SCORES = ("score_collaborative", "score_session", "score_content")  # of the candidate sources that know the user
CONTEXT = ("price", "item_age_days", *SCORES)  # as the request had them
_MEAN_PAID = "nullif(user_paid_30d / nullif(user_purchases_30d, 0), 0)"
# Features made of other features, as SQL; `candidate_matrix` makes the same ones of arrays.
_DERIVED_SQL = {
    **{name: f"rows.{name}" for name in CONTEXT},
    "price_to_mean": f"rows.price / {_MEAN_PAID}",
    "category_share_1h": "user_category_likes_1h / nullif(user_likes_1h, 0)",
    "category_share_7d": "user_category_likes_7d / nullif(user_likes_7d, 0)",
    "category_share_30d": "user_category_likes_30d / nullif(user_likes_30d, 0)",
    "item_like_rate_7d": f"(item_likes_7d + {_PRIOR_LIKES}) / (item_views_7d + {_PRIOR_VIEWS})",
    "score_trending": "item_likes_1d / sqrt(item_likes_7d / 7 + 1)",  # candidates.trending_scores
    "score_fresh": "CASE WHEN rows.item_age_days < 7 THEN (1 - rows.item_age_days / 7) * (1 + rows.score_content) "
    "ELSE 0 END",  # candidates.fresh_scores, and to the user's taste
}
FEATURES: tuple[str, ...] = (*_DERIVED_SQL, *USER_FOLD.features, *GROUPED, *ITEM_FOLD.features)
_AT = {name: column for column, name in enumerate(FEATURES)}
_USER_AT, _ITEM_AT = (
    slice(_AT[names[0]], _AT[names[-1]] + 1)  # side by side in FEATURES
    for names in (USER_FOLD.features, ITEM_FOLD.features)
)
_ITEM_HOP = min(ITEM.partials)
_NOTHING = {stream.name: USER_FOLD.nothing(stream) for stream in USER_STREAMS if stream.group is not None}
KEYS = ("shown_id", "request_id", "user_id", "item_id")


@dataclass(frozen=True, slots=True)
class UserValues:
    """What a user's row says at one moment: values, and by category and item what is not the same for all candidates.

    `recent` are the items liked last, newest first; `consumed` those liked within 30 days; `watermark` is the row's.
    """

    values: dict[str, float]
    by_category: dict[str, tuple[float, ...]]
    views: dict[str, tuple[float, ...]]
    likes: dict[str, tuple[float, ...]]
    recent: list[str]
    watermark: Watermark

    @property
    def consumed(self) -> set[str]:
        return {item for item, (count,) in self.likes.items() if count}


def user_values(state: bytes | None, t_us: int) -> UserValues:
    """The user's row at `t_us`; `None` stands for a user never seen. LateEventError as in EntityFold.values."""
    row = USER_FOLD.decode(state)
    return UserValues(
        values=USER_FOLD.values(row, t_us),
        by_category=USER_FOLD.by_group(row, USER_CATEGORIES, t_us),
        views=USER_FOLD.by_group(row, USER_ITEM_VIEWS, t_us),
        likes=USER_FOLD.by_group(row, USER_ITEM_LIKES, t_us),
        recent=USER_FOLD.recent(row, USER_LIKES),
        watermark=watermark(row),
    )


def item_tile(t_us: int) -> int:
    """The number of the hour: as long as it and the row are the same, so are the item's values.

    >>> item_tile(2 * HOUR - 1), item_tile(2 * HOUR)
    (1, 2)
    """
    return t_us // _ITEM_HOP


class Coded(NamedTuple):
    """Names as numbers: `codes` (n,) say which one each candidate has, `of` gives the code of a name."""

    codes: Ints
    of: Mapping[str, int]


def candidate_matrix(
    user: UserValues,
    item_ids: Coded,
    categories: Coded,
    items: Floats,
    prices: Floats,
    age_days: Floats,
    scores: NDArray[np.floating],
) -> Floats:
    """FEATURES of n candidates of one user, (n, f) float64; NaN where undefined.

    `items` (n, features of ITEM_FOLD) are the values of their rows, `scores` (n, 3) those of SCORES, `prices` NaN where
    the catalogue names none. Equal to point_in_time_sql's values for the same rows, to the last bit of a division.
    """
    matrix = np.empty((len(items), len(FEATURES)))
    matrix[:, _USER_AT] = list(user.values.values())
    matrix[:, _ITEM_AT] = items
    for stream, groups, coded in (
        (USER_CATEGORIES, user.by_category, categories),
        (USER_ITEM_VIEWS, user.views, item_ids),
        (USER_ITEM_LIKES, user.likes, item_ids),
    ):
        at = _AT[stream.features[0].name]
        matrix[:, at : at + len(stream.features)] = _of_groups(groups, _NOTHING[stream.name], coded)
    matrix[:, [_AT[name] for name in SCORES]] = scores
    matrix[:, _AT["price"]], matrix[:, _AT["item_age_days"]] = prices, age_days
    _derive(matrix, user.values)
    return matrix


def _of_groups(groups: dict[str, tuple[float, ...]], nothing: tuple[float, ...], coded: Coded) -> Floats:
    """The values of the group that each candidate is in, (n, features); `nothing` where the user has no such group."""
    place = np.zeros(len(coded.of) + 1, dtype=np.int64)  # the last for groups without a code, which no candidate has
    place[[coded.of.get(name, -1) for name in groups]] = np.arange(1, len(groups) + 1)
    return np.array([nothing, *groups.values()])[place[coded.codes]]


def _derive(matrix: Floats, user: dict[str, float]) -> None:
    paid, bought = user["user_paid_30d"], user["user_purchases_30d"]
    mean_paid = paid / bought if bought and paid else np.nan
    matrix[:, _AT["price_to_mean"]] = matrix[:, _AT["price"]] / mean_paid
    for span in ("1h", "7d", "30d"):
        likes = user[f"user_likes_{span}"] or np.nan
        matrix[:, _AT[f"category_share_{span}"]] = matrix[:, _AT[f"user_category_likes_{span}"]] / likes
    liked = matrix[:, _AT["item_likes_7d"]]
    matrix[:, _AT["item_like_rate_7d"]] = (liked + _PRIOR_LIKES) / (matrix[:, _AT["item_views_7d"]] + _PRIOR_VIEWS)
    matrix[:, _AT["score_trending"]] = matrix[:, _AT["item_likes_1d"]] / np.sqrt(liked / 7 + 1)
    age, content = matrix[:, _AT["item_age_days"]], matrix[:, _AT["score_content"]]
    matrix[:, _AT["score_fresh"]] = np.where(age < FRESH_DAYS, (1 - age / FRESH_DAYS) * (1 + content), 0)


def watermark(row: Row) -> Watermark:
    """Which events a row holds, as an impression logs it."""
    return {
        topic: (epoch, {str(partition): offset for partition, offset in offsets.items()})
        for topic, (epoch, offsets) in row.watermark.items()
    }


def point_in_time_sql(rows: str, interactions: str, visibility: Visibility, dialect: Dialect = DUCKDB) -> str:
    """SQL with one result row for each row of `rows`: KEYS (shown_id is unique), its times, then FEATURES, all DOUBLE.

    `rows` is a relation with KEYS, category, CONTEXT, event_timestamp, created_timestamp and, for visibility
    "watermark", `watermarks` as JSON {"user": …, "item": …}. Undefined features are NaN.
    """
    others = [name for name in FEATURES if name not in _DERIVED_SQL]
    context = ("category", *CONTEXT)
    relations = {INTERACTIONS: interactions}
    return point_in_time(rows, STREAMS, relations, KEYS, context, _DERIVED_SQL, others, visibility, dialect)


def recent_items_sql(requests: str, interactions: str, visibility: Visibility, dialect: Dialect = DUCKDB) -> str:
    """SQL for request_id and `recent` of each row of `requests` (request_id, user_id and its times)."""
    return recent_sql(requests, USER_LIKES, interactions, ("request_id", "user_id"), visibility, dialect)


def unseen_events_sql(rows: str, interactions: str) -> str:
    """DuckDB SQL for the shown_ids of rows that had not seen an interaction known before them (staleness)."""
    return unseen_sql(rows, STREAMS, {INTERACTIONS: interactions}, "shown_id")
