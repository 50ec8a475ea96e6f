"""What users do: visits with an intent, lists that are looked at from the top, clicks, purchases, finds of their own.

A list is examined by position (the position-based model: Richardson et al. 2007; Craswell et al. 2008): the item at
position p is seen with probability p^-0.6 whatever it is, and clicked with its relevance if seen. In the history lists
are drawn from the popularity of the last week, with a share of chance, and the probability of each draw is logged.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whiteboard.recommendation.population import FAVOURITES, Floats, Ints, Truth, WorldConfig

VIEW, CLICK, PURCHASE = 0, 1, 2
DAY_MS = 86_400_000
_REQUESTS_A_VISIT = 1.5
_EXPLORED = 0.2  # share of the draws of the history's policy that are even over the catalogue
_SHARPNESS = 0.8  # exponent of a week's likes in its other draws
_LOOKED_AT = 40  # items among which a user finds one alone
_WANDERING = 0.2  # share of visits with an intent outside the favourites


def examination(k: int) -> Floats:
    """The probability that the item at each position is seen, top first, (k,).

    >>> examination(3).round(3).tolist()
    [1.0, 0.66, 0.517]
    """
    return np.asarray(np.arange(1, k + 1) ** -0.6)


@dataclass(frozen=True)
class Visits:
    """A day's visits: `user`, `intent` (a category) and `begin` (ms of the day) of each, (n,)."""

    user: Ints
    intent: Ints
    begin: Ints

    def __len__(self) -> int:
        return len(self.user)


def visits(config: WorldConfig, truth: Truth, day: int, rng: np.random.Generator) -> Visits:
    """The visits of a day, in no order; a user who has not signed up yet has none."""
    rate = config.requests_per_user_day / _REQUESTS_A_VISIT
    user = np.repeat(np.arange(config.users), rng.poisson(rate, config.users) * (truth.joined <= day))
    favourites = truth.favourites[day, user]
    weights = np.array(FAVOURITES) / sum(FAVOURITES)
    place = rng.choice(len(FAVOURITES), len(user), p=weights)
    intent = favourites[np.arange(len(user)), place].astype(np.int64)
    wandering = rng.random(len(user)) < _WANDERING
    intent[wandering] = rng.integers(0, config.categories, int(wandering.sum()))
    begin = rng.integers(7 * 3_600_000, 23 * 3_600_000, len(user))
    return Visits(user, intent, begin)


def requests_of(found: Visits, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """The requests of visits: which visit each belongs to, and its ms of the day; one and a half a visit."""
    count = 1 + rng.poisson(_REQUESTS_A_VISIT - 1, len(found))
    visit = np.repeat(np.arange(len(found)), count)
    nth = np.arange(len(visit)) - np.repeat(np.cumsum(count) - count, count)
    return visit, found.begin[visit] + nth * 90_000 + rng.integers(0, 20_000, len(visit))


@dataclass(frozen=True)
class Reactions:
    """What was done with lists of items, (n, k): seen, clicked, bought."""

    seen: NDArray[np.bool_]
    clicked: NDArray[np.bool_]
    bought: NDArray[np.bool_]


def react(
    config: WorldConfig, truth: Truth, users: Ints, items: Ints, day: int, intent: Ints, rng: np.random.Generator
) -> Reactions:
    """What users do with the lists they are shown, (n, k); an item of -1 is none."""
    n, k = items.shape
    relevance = truth.relevance(users, items, np.full(n, day), intent)
    seen = (rng.random((n, k)) < examination(k)) & (items >= 0)
    clicked = seen & (rng.random((n, k)) < relevance)
    chance = truth.purchase(np.repeat(users, k), items.ravel(), config.purchase).reshape(n, k)
    return Reactions(seen, clicked, clicked & (rng.random((n, k)) < chance))


def finds(config: WorldConfig, truth: Truth, found: Visits, day: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """What users find alone: which visit, and which item, the best to their taste of those that they looked at."""
    rate = config.organic_per_user_day / config.requests_per_user_day * _REQUESTS_A_VISIT
    visit = np.repeat(np.arange(len(found)), rng.poisson(rate, len(found)))
    attraction = np.where(truth.listed <= day, np.exp(0.6 * truth.appeal), 0)
    items = _draw(attraction / attraction.sum(), (len(visit), _LOOKED_AT), rng)
    user = found.user[visit]
    relevance = truth.relevance(user, items, np.full(len(visit), day), found.intent[visit])
    logit = np.log(relevance / (1 - relevance))
    best = (logit + rng.gumbel(size=logit.shape)).argmax(axis=1)  # a choice by the softmax of the log-odds
    return visit, items[np.arange(len(visit)), best]


def popular_lists(
    likes: Floats, listed: NDArray[np.bool_], n: int, k: int, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    """Lists as the history's policy shows them: items (n, k), and the propensity of each given those above it.

    Items are drawn one after the other without repetition, by the week's `likes` (items,) or evenly over what is
    `listed`. A list that comes out short ends in -1.
    """
    popular = np.where(listed, (likes + 0.5) ** _SHARPNESS, 0)
    chance = (1 - _EXPLORED) * popular / popular.sum() + _EXPLORED * listed / listed.sum()
    draws = _draw(chance, (n, 3 * k), rng)
    first = np.ones(draws.shape, dtype=bool)
    for nth in range(1, draws.shape[1]):
        first[:, nth] = (draws[:, :nth] != draws[:, nth, None]).all(axis=1)
    place = np.where(first, first.cumsum(axis=1) - 1, k)
    items = np.full((n, k), -1)
    row, column = np.nonzero(place < k)
    items[row, place[row, column]] = draws[row, column]
    drawn = np.where(items >= 0, chance[items], 0)
    above = np.cumsum(drawn, axis=1) - drawn
    return items, drawn / (1 - above)


def _draw(chance: Floats, shape: tuple[int, int], rng: np.random.Generator) -> Ints:
    cumulated = np.cumsum(chance)
    return np.asarray(
        np.searchsorted(cumulated, rng.random(shape) * cumulated[-1], side="right").clip(0, len(chance) - 1)
    )
