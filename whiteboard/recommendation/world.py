"""A world of users and items: where interactions come from when no file is brought.

    whiteboard recommendation simulate --users 500 --items 400 --days 30 --out world/

    interaction_id  user_id  item_id  event_timestamp      event_type  value  request_id  position
    x-000000017     u-00012  i-00088  2026-01-01 09:12:03  click       NaN    h-00000004  3

History is what users did with lists drawn by popularity, and what they found alone. Live, an `Audience` asks for
recommendations and reacts to whatever it is shown. The truth behind both (population.py) is kept apart.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whiteboard.recommendation.behaviour import (
    CLICK,
    DAY_MS,
    PURCHASE,
    VIEW,
    Reactions,
    Visits,
    finds,
    popular_lists,
    react,
    requests_of,
    visits,
)
from whiteboard.recommendation.population import (
    Floats,
    Ints,
    Truth,
    WorldConfig,
    catalogue,
    found,
    item_ids,
    user_ids,
)

OnProgress = Callable[[int, int], None]  # (days, of how many)
_TYPES = np.array(["view", "click", "purchase"], dtype=object)
_WEEK = 7


@dataclass(frozen=True)
class World:
    """A simulated world, frames in order of time, all times UTC in µs.

    `items`: item_id, title, categories, price, event_timestamp. `interactions`: interaction_id, user_id, item_id,
    event_timestamp, event_type, value (price of a purchase), category, request_id and position (null for finds).
    `shown`, a row an item shown: request_id, event_timestamp, user_id, item_id, position, propensity.
    """

    config: WorldConfig
    items: pd.DataFrame
    interactions: pd.DataFrame
    shown: pd.DataFrame
    truth: Truth

    def save(self, directory: Path) -> Path:
        """Writes items, interactions and shown as Parquet, the truth as truth.npz; the path of the interactions."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("items", "interactions", "shown"):
            getattr(self, name).to_parquet(directory / f"{name}.parquet", index=False)
        self.truth.save(directory / "truth.npz")
        return directory / "interactions.parquet"


class _Log:
    """Events as columns, in no order, and how often each item was liked, (items,)."""

    COLUMNS = ("user", "item", "at_ms", "kind", "request", "position")

    def __init__(self, items: int) -> None:
        self.parts: list[tuple[Ints, ...]] = []
        self.likes = np.zeros(items)

    def add(self, user: Ints, item: Ints, at_ms: Ints, kind: int, request: Ints, position: Ints) -> None:
        self.parts.append((user, item, at_ms, np.full(len(user), kind), request, position))
        if kind != VIEW:
            self.likes += np.bincount(item, minlength=len(self.likes))

    def column(self, name: str) -> Ints:
        return np.concatenate([part[self.COLUMNS.index(name)] for part in self.parts])


def simulate(
    config: WorldConfig, history_days: int | None = None, progress: OnProgress = lambda done, total: None
) -> World:
    """The world of `config`, the same for the same seed, with the history of its first days (default: all).

    10 M interactions take some minutes on one core.
    """
    truth = found(config)
    log, slates = _Log(config.items), list[tuple[Ints, Ints, Ints, Ints, Floats]]()
    week = np.zeros((_WEEK, config.items))  # likes by day
    days = config.days if history_days is None else history_days
    requests = 0
    for day in range(days):
        rng = np.random.default_rng([config.seed, 10, day])
        there, before = visits(config, truth, day, rng), log.likes.copy()
        visit, at_ms = requests_of(there, rng)
        items, propensity = popular_lists(week.sum(axis=0), truth.listed <= day, len(visit), config.k, rng)
        user, at_ms = there.user[visit], at_ms + day * DAY_MS
        number = requests + np.arange(len(visit))
        slates.append((number, at_ms, user, items, propensity))
        requests += len(visit)
        done = react(config, truth, user, items, day, there.intent[visit], rng)
        _reactions(log, done, number, at_ms, user, items)
        _finds(log, config, truth, there, day, rng)
        week[day % _WEEK] = log.likes - before
        progress(day + 1, days)
    listed = _moments(config, truth.listed * DAY_MS)
    listing = pd.DataFrame(catalogue(config, truth)).assign(event_timestamp=listed)
    return World(config, listing, _interactions(config, truth, log, listing), _shown(config, slates), truth)


def _reactions(log: _Log, done: Reactions, request: Ints, at_ms: Ints, user: Ints, items: Ints) -> None:
    for kind, mask, delay_ms in ((VIEW, done.seen, 500), (CLICK, done.clicked, 1_500), (PURCHASE, done.bought, 45_000)):
        row, place = np.nonzero(mask)
        when = at_ms[row] + place * 700 + delay_ms
        log.add(user[row], items[row, place], when, kind, request[row], place + 1)


def _finds(log: _Log, config: WorldConfig, truth: Truth, there: Visits, day: int, rng: np.random.Generator) -> None:
    visit, item = finds(config, truth, there, day, rng)
    user, none = there.user[visit], np.full(len(visit), -1)
    at_ms = there.begin[visit] + day * DAY_MS + rng.integers(20_000, 300_000, len(visit))
    log.add(user, item, at_ms, CLICK, none, none)
    bought = rng.random(len(visit)) < truth.purchase(user, item, config.purchase)
    log.add(user[bought], item[bought], at_ms[bought] + 60_000, PURCHASE, none[bought], none[bought])


def _interactions(config: WorldConfig, truth: Truth, log: _Log, items: pd.DataFrame) -> pd.DataFrame:
    user, item, at_ms, kind, request, position = map(log.column, log.COLUMNS)
    order = np.lexsort((kind, at_ms))
    user, item, at_ms, kind = user[order], item[order], at_ms[order], kind[order]
    request, position = request[order], position[order]
    price = items["price"].to_numpy()
    return pd.DataFrame(
        {
            "interaction_id": _numbered("x", len(order)),
            "user_id": user_ids(config.users)[user],
            "item_id": item_ids(config.items)[item],
            "event_timestamp": _moments(config, at_ms),
            "event_type": _TYPES[kind],
            "value": np.where(kind == PURCHASE, price[item], np.nan),
            "category": items["categories"].to_numpy(dtype=object)[item],
            "request_id": pd.Series(request_ids(request)).where(request >= 0),
            "position": np.where(position >= 0, position, np.nan),
        }
    )


def _shown(config: WorldConfig, slates: list[tuple[Ints, Ints, Ints, Ints, Floats]]) -> pd.DataFrame:
    number, at_ms, user = (np.concatenate([slate[part] for slate in slates]) for part in range(3))
    items, propensity = (np.concatenate([slate[part] for slate in slates]) for part in (3, 4))
    order = np.argsort(at_ms, kind="stable")
    row, place = np.nonzero(items[order] >= 0)
    row = order[row]
    return pd.DataFrame(
        {
            "request_id": request_ids(number[row]),
            "event_timestamp": _moments(config, at_ms[row]),
            "user_id": user_ids(config.users)[user[row]],
            "item_id": item_ids(config.items)[items[row, place]],
            "position": place + 1,
            "propensity": propensity[row, place],
        }
    )


def _moments(config: WorldConfig, at_ms: Ints) -> pd.DatetimeIndex:
    start = np.datetime64(config.start, "us")
    return pd.DatetimeIndex(start + at_ms.astype("timedelta64[ms]").astype("timedelta64[us]")).tz_localize("UTC")


def request_ids(numbers: Ints) -> NDArray[np.object_]:
    """h-00000017 for the requests of the history."""
    return np.array([f"h-{number:08d}" for number in numbers], dtype=object)


def _numbered(prefix: str, size: int) -> NDArray[np.object_]:
    return np.array([f"{prefix}-{number:09d}" for number in range(size)], dtype=object)
