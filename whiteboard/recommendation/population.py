"""Who there is and what they like: the users and items of the simulated world, and the truth about every pair.

    truth.relevance(users, items, day, intent)      P(click | examined) of each user and item on that day, (n, m)

A user likes three categories (they drift), styles (a latent vector), a price level; an item has a category, a style
that its title tells of, a price, and an appeal with a long tail. Within a session the user is after one category, the
intent. No part of the system reads this, except to judge the system.
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STYLES = 6  # of each category
DIMENSIONS = 8
FAVOURITES = (1.0, 0.7, 0.5)  # how much a user likes the first, second and third favourite category
_BASE, _MATCH, _STYLE, _APPEAL, _PRICE, _INTENT = -4.2, 2.4, 0.7, 0.8, -0.4, 1.3  # weights in the log-odds of a click
# What money being tight does: to the weight of the price, to the log price that one likes, to what is priced right.
_TIGHTER, _CHEAPER, _BARGAIN = -2.6, 0.9, 1.0
_CATEGORIES = (
    "garden", "books", "kitchen", "toys", "music", "camping", "cycling", "painting", "running", "baking", "fishing",
    "games", "lighting", "pets", "photo", "sewing", "skiing", "tea", "tools", "travel",
)  # fmt: skip
_ADJECTIVES = (
    "amber", "brisk", "calm", "dusky", "elder", "folk", "grand", "hazel", "iron", "jade", "keen", "linen", "mellow",
    "nordic", "opal", "plain", "quiet", "rustic", "silver", "tidal", "urban", "velvet", "willow", "young",
)  # fmt: skip
_NOUNS = ("set", "kit", "piece", "model", "edition", "companion")


@dataclass(frozen=True)
class WorldConfig:
    """Size, length and switches of a world.

    `requests_per_user_day` are requests for recommendations; beside them a user finds `organic_per_user_day` items
    alone. On `shift_day` (0 = first) money gets tight: everybody looks at the price, which had hardly mattered, and
    `shift_share` of the users take to other categories. Otherwise `drift` is the chance that a user exchanges a
    favourite category on a day.
    """

    users: int = 10_000
    items: int = 5_000
    start: date = date(2026, 1, 1)
    days: int = 60
    seed: int = 0
    requests_per_user_day: float = 0.6
    organic_per_user_day: float = 0.4
    k: int = 10  # length of the lists that were shown
    categories: int = 20
    new_items: float = 0.3  # share of the catalogue that is listed while the world lives
    new_users: float = 0.1  # share of the users who sign up while the world lives
    drift: float = 0.01
    shift_day: int | None = None
    shift_share: float = 0.3
    purchase: float = 0.15  # chance of a purchase after a click at a price that suits


@dataclass(frozen=True)
class Truth:
    """The truth about users and items, as arrays by code; a day is counted from the world's start.

    Of items: `category`, `style_number`, `style` (items, dimensions), `appeal`, `log_price`, `listed` (a day).
    Of users: `favourites` (days, users, 3), `taste` (users, dimensions), `affords` (a log price), `joined` (a day).
    Of days: `tight` (days,), 1 when money is tight.
    """

    category: Ints
    style_number: Ints
    style: Floats
    appeal: Floats
    log_price: Floats
    listed: Ints
    favourites: NDArray[np.int16]
    taste: Floats
    affords: Floats
    joined: Ints
    tight: Floats

    def relevance(self, users: Ints, items: Ints, day: Ints, intent: Ints | None = None) -> Floats:
        """P(click | examined), (n, m): of user n with items (m,) or (n, m) on its day (n,), with the session's intent.

        Without an intent (or where it is -1) nothing special is looked for.
        """
        items = np.broadcast_to(items, (len(users), np.shape(items)[-1]))
        category = self.category[items]
        match = np.zeros(items.shape)
        day = np.minimum(day, len(self.favourites) - 1)
        favourites, tight = self.favourites[day, users], self.tight[day][:, None]
        for place, weight in enumerate(FAVOURITES):
            match = np.maximum(match, weight * (favourites[:, place, None] == category))
        logit = _BASE + _MATCH * match + _APPEAL * self.appeal[items]
        logit += _STYLE * np.einsum("nd,nmd->nm", self.taste[users], self.style[items])
        likes_to_pay = self.affords[users, None] - _CHEAPER * tight
        logit += (_PRICE + _TIGHTER * tight) * np.abs(self.log_price[items] - likes_to_pay) + _BARGAIN * tight
        if intent is not None:
            logit += _INTENT * (intent[:, None] == category)
        return np.asarray(1 / (1 + np.exp(-logit)))

    def purchase(self, users: Ints, items: Ints, chance: float) -> Floats:
        """P(purchase | click) of each pair, (n,): less for what costs more than the user likes to pay."""
        above = np.maximum(self.log_price[items] - self.affords[users], 0)
        return np.asarray(chance * np.exp(-above))

    def save(self, path: Path) -> None:
        """Writes all arrays into one .npz."""
        np.savez_compressed(path, **self.__dict__)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(**{name: file[name] for name in file.files})


def found(config: WorldConfig) -> Truth:
    """The users and items of the world, the same for the same seed."""
    rng = np.random.default_rng([config.seed, 1])
    items, users = config.items, config.users
    popularity = _zipf(config.categories, 0.7)
    category = rng.choice(config.categories, items, p=popularity)
    styles = rng.normal(0, 1, (config.categories, STYLES, DIMENSIONS))
    style_number = rng.integers(0, STYLES, items)
    style = 0.9 * styles[category, style_number] + 0.45 * rng.normal(0, 1, (items, DIMENSIONS))
    listed = np.where(rng.random(items) < config.new_items, rng.integers(1, config.days, items), 0)
    joined = np.where(rng.random(users) < config.new_users, rng.integers(1, config.days, users), 0)
    price_level = rng.normal(3.2, 0.6, config.categories)
    return Truth(
        category=category,
        style_number=style_number,
        style=style / np.sqrt(DIMENSIONS),
        appeal=np.minimum(rng.exponential(1.0, items), 3.0) - 0.4,
        log_price=price_level[category] + rng.normal(0, 0.5, items),
        listed=listed,
        favourites=_favourites(config, popularity),
        taste=rng.normal(0, 1, (users, DIMENSIONS)),
        affords=rng.normal(3.2, 0.5, users),
        joined=joined,
        tight=(np.arange(config.days) >= (config.days if config.shift_day is None else config.shift_day)).astype(float),
    )


def _favourites(config: WorldConfig, popularity: Floats) -> NDArray[np.int16]:
    """Each user's favourite categories day by day."""
    rng = np.random.default_rng([config.seed, 2])
    shape = (config.users, len(FAVOURITES))
    today = rng.choice(config.categories, shape, p=popularity).astype(np.int16)
    days = np.empty((config.days, *shape), dtype=np.int16)
    for day in range(config.days):
        changed = rng.random(config.users) < config.drift
        place, fresh = (
            rng.integers(0, shape[1], config.users),
            rng.choice(config.categories, config.users, p=popularity),
        )
        today[changed, place[changed]] = fresh[changed]
        redrawn = rng.choice(config.categories, shape, p=popularity)
        moved = rng.random(config.users) < config.shift_share
        if day == config.shift_day:
            today[moved] = redrawn[moved]
        days[day] = today
    return days


def _zipf(size: int, exponent: float) -> Floats:
    weights = 1 / np.arange(1, size + 1) ** exponent
    return np.asarray(weights / weights.sum())


def catalogue(config: WorldConfig, truth: Truth) -> dict[str, Any]:
    """What the catalogue says of every item: item_id, title, categories and price, as columns."""
    rng = np.random.default_rng([config.seed, 3])
    rounds, known = range(config.categories), len(_CATEGORIES)
    names = [_CATEGORIES[c % known] + (f" {c // known + 1}" if c >= known else "") for c in rounds]
    pairs = [rng.choice(len(_ADJECTIVES), 2, replace=False) for _ in range(config.categories * STYLES)]
    told = np.array(pairs)[truth.category * STYLES + truth.style_number]  # a title tells of the item's style
    nouns = rng.integers(0, len(_NOUNS), config.items)
    titles = [
        f"{_ADJECTIVES[one]} {_ADJECTIVES[two]} {names[c]} {_NOUNS[noun]}".capitalize()
        for (one, two), c, noun in zip(told, truth.category, nouns, strict=True)
    ]
    return {
        "item_id": item_ids(config.items),
        "title": titles,
        "categories": [names[c] for c in truth.category],
        "price": np.round(np.exp(truth.log_price), 2),
    }


def item_ids(size: int) -> NDArray[np.object_]:
    """i-00000, i-00001, …"""
    return np.array([f"i-{i:05d}" for i in range(size)], dtype=object)


def user_ids(size: int) -> NDArray[np.object_]:
    """u-00000, u-00001, …"""
    return np.array([f"u-{i:05d}" for i in range(size)], dtype=object)
