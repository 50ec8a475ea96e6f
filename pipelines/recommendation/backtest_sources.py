"""The candidate sources of a backtest: fitted to training rows, they score every item for every user at once.

    models = fit(rows, catalogue, choice); models.scores(users)["edlae"]      # (users, items) float32

They are the library's models plus two that know the calendar: `trending`, an item's likes faded with their age as of
the user's last training row (or the end of the training, for a user without any), and `popularity`.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from whiteboard.recommendation.candidates import seconds
from whiteboard.recommendation.collaborative import LinearAutoencoder, WeightedALS, interaction_matrix
from whiteboard.recommendation.similarity import Content, CoVisitation

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

EASE, EDLAE, ALS, SESSION, CONTENT, TRENDING, POPULARITY = SOURCES = (
    "ease", "edlae", "als", "session", "content", "trending", "popularity",
)  # fmt: skip
BINS = 256  # points in time at which a trend is kept
RECENT = 20  # items that stand for a user where only the recent ones count
DAY_S = 86_400


@dataclass(frozen=True)
class Rows:
    """Interactions as parallel arrays of codes and seconds, sorted by time."""

    users: Ints
    items: Ints
    at_s: Ints
    n_users: int
    n_items: int

    @classmethod
    def of(cls, frame: pd.DataFrame, users: pd.Index, items: pd.Index) -> "Rows":
        """The frame's rows, coded by their places in `users` and `items`."""
        user, item = users.get_indexer(pd.Index(frame["user_id"])), items.get_indexer(pd.Index(frame["item_id"]))
        return cls(user.astype(np.int64), item.astype(np.int64), seconds(frame), len(users), len(items))

    @property
    def matrix(self) -> sparse.csr_matrix:
        """Users × items, 1 where liked."""
        return interaction_matrix(self.users, self.items, (self.n_users, self.n_items))

    @property
    def item_counts(self) -> Ints:
        """How many users liked each item."""
        return np.bincount(self.items, minlength=self.n_items).astype(np.int64)

    def last_s(self) -> Ints:
        """Each user's last moment; for a user without rows the end of all."""
        last = np.full(self.n_users, -1, dtype=np.int64)
        np.maximum.at(last, self.users, self.at_s)
        return np.where(last < 0, self.at_s.max(), last)

    def recent(self) -> list[Ints]:
        """Each user's items, newest first."""
        order = np.argsort(self.users, kind="stable")
        ends = np.searchsorted(self.users[order], np.arange(self.n_users + 1))
        return [self.items[order[low:high]][::-1] for low, high in pairwise(ends)]


@dataclass(frozen=True)
class Choice:
    """Hyper-parameters that the validation split decides on."""

    ease_l2: float = 300.0
    edlae_l2: float = 200.0
    dropout: float = 0.5
    factors: int = 48
    als_l2: float = 30.0
    alpha: float = 3.0
    half_life_days: float = 180.0


@dataclass(frozen=True)
class Trend:
    """Item likes, faded by half every `half_life_days`, at points of time; `levels` is (BINS, items)."""

    edges_s: NDArray[np.float64]
    levels: Floats

    @classmethod
    def fit(cls, rows: Rows, half_life_days: float) -> "Trend":
        edges = np.linspace(rows.at_s.min(), rows.at_s.max(), BINS + 1)[1:]
        bins = np.searchsorted(edges, rows.at_s)
        levels = np.zeros((BINS, rows.n_items), dtype=np.float32)
        age_days = (edges[np.minimum(bins, BINS - 1)] - rows.at_s) / DAY_S
        np.add.at(levels, (np.minimum(bins, BINS - 1), rows.items), 0.5 ** (age_days / half_life_days))
        keep = 0.5 ** ((edges[1] - edges[0]) / DAY_S / half_life_days)
        for point in range(1, BINS):
            levels[point] += keep * levels[point - 1]
        return cls(edges, levels)

    def at(self, moments_s: Ints) -> Floats:
        """The levels at the last point not after each moment (the first one, before it); (moments, items)."""
        points = np.searchsorted(self.edges_s, moments_s, side="right") - 1
        return np.asarray(np.log1p(self.levels[np.maximum(points, 0)]), dtype=np.float32)


@dataclass(frozen=True)
class Models:
    """All sources fitted to the same rows."""

    rows: Rows
    ease: LinearAutoencoder
    edlae: LinearAutoencoder
    als: WeightedALS
    covisitation: CoVisitation
    content: Content
    trend: Trend

    def scores(self, users: Ints) -> dict[str, Floats]:
        """The scores of every source for these users; name → (users, items)."""
        matrix = self.rows.matrix[users]
        everyone = self.rows.recent()
        recent = [everyone[user][:RECENT] for user in users]
        likes = np.log1p(self.rows.item_counts).astype(np.float32)
        return {
            EASE: self.ease.scores_of(matrix),
            EDLAE: self.edlae.scores_of(matrix),
            ALS: self.als.scores_of(matrix),
            SESSION: np.stack([self.covisitation.scores(items) for items in recent]),
            CONTENT: np.stack([self.content.profile(items) for items in recent]) @ self.content.vectors.T,
            TRENDING: self.trend.at(self.rows.last_s()[users]),
            POPULARITY: np.tile(likes, (len(users), 1)),
        }


def fit(rows: Rows, catalogue: pd.DataFrame, choice: Choice, seed: int, known: dict[str, Any] | None = None) -> Models:
    """All sources fitted to these rows; `known` names those that have been fitted already."""
    matrix, done = rows.matrix, known or {}
    return Models(
        rows=rows,
        ease=done.get(EASE) or LinearAutoencoder.fit(matrix, l2=choice.ease_l2),
        edlae=done.get(EDLAE) or LinearAutoencoder.fit(matrix, l2=choice.edlae_l2, dropout=choice.dropout),
        als=done.get(ALS)
        or WeightedALS.fit(matrix, factors=choice.factors, l2=choice.als_l2, alpha=choice.alpha, seed=seed),
        covisitation=CoVisitation.fit(rows.users, rows.items, rows.at_s, rows.n_items),
        content=Content.fit(catalogue, seed=seed),
        trend=done.get(TRENDING) or Trend.fit(rows, choice.half_life_days),
    )
