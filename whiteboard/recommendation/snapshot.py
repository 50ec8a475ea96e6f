"""What a process knows of all items at once: catalogue, values of their windows, trend; replaced as a whole.

    snapshot = Snapshot.of(items, loaded_model)          # columns by code: the model's items first, then newer ones
    snapshot.fill(read_items, t_us)                      # every item's row, read and evaluated; in a thread
    snapshot.stale(codes, t_us)                          # which of these must be read anew for a request at t_us

An item's values change with its row and with the hour (features.item_tile). A row is kept for some seconds; whoever
asks for it in between is served from here (`whiteboard_recommendation_item_cache_total` counts how often). What is
logged is the watermark of the row that was used, so the cache costs freshness and never parity.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from prometheus_client import Counter

from whiteboard.events import Watermark
from whiteboard.hotswap import Loaded
from whiteboard.recommendation.candidates import Retrieval, trending_scores
from whiteboard.recommendation.events import NO_CATEGORY
from whiteboard.recommendation.features import ITEM_FOLD, item_tile, item_values, watermark
from whiteboard.recommendation.model import RecommendationModel
from whiteboard.windows import DAY

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ReadItems = Callable[[Sequence[str]], list[bytes | None]]

CACHE = Counter("whiteboard_recommendation_item_cache", "item rows that requests needed", ["outcome"])
for _outcome in ("hit", "miss"):
    CACHE.labels(_outcome)

_CHUNK = 100  # rows read and evaluated at a time, so that requests come in between
_DAY_LIKES, _WEEK_LIKES = (ITEM_FOLD.features.index(name) for name in ("item_likes_1d", "item_likes_7d"))


class Snapshot:
    """Items as columns by code. Read by the event loop; `fill` and `put` replace single entries."""

    def __init__(self, items: pd.DataFrame, loaded: Loaded[RecommendationModel] | None) -> None:
        self.loaded = loaded
        self.retrieval: Retrieval | None = loaded.model.retrieval.extended(items) if loaded else None
        self.item_ids: list[str] = self.retrieval.item_ids if self.retrieval else items["item_id"].tolist()
        self.codes = {item_id: code for code, item_id in enumerate(self.item_ids)}
        listed = items.set_index("item_id").reindex(self.item_ids)
        categories = listed["categories"].fillna("")
        self.title: list[str] = listed["title"].fillna("").tolist()
        self.category: list[str] = [names.partition("|")[0] or NO_CATEGORY for names in categories]
        self.price: Floats = listed["price"].to_numpy(dtype=np.float64)
        times = listed["event_timestamp"].astype("datetime64[us, UTC]")
        self._listed_us = np.where(times.isna(), 0, times.to_numpy(dtype="datetime64[us]").astype(np.int64))
        n = len(self.item_ids)
        self.values = np.zeros((n, len(ITEM_FOLD.features)))
        self.watermarks: list[Watermark] = [{} for _ in range(n)]
        self._until = np.zeros(n)  # time.monotonic() when an entry is to be read again
        self._tile = np.full(n, -1, dtype=np.int64)
        self._rng = np.random.default_rng(0)
        self.trending = np.zeros(n, dtype=np.float32)

    def age_days(self, t_us: int) -> Floats:
        """Days since each item was listed, negative for one that is not yet; (items,)."""
        return np.asarray((t_us - self._listed_us) / DAY)

    def popular(self) -> Ints:
        """The codes by the likes of the last week, most first; of equal ones those that trend."""
        order: Ints = np.lexsort((-self.trending, -self.values[:, _WEEK_LIKES]))
        return order

    def stale(self, codes: Ints, t_us: int) -> Ints:
        """Those of `codes` whose values must be read anew for a request at `t_us`; counts hits and misses."""
        fresh = (self._until[codes] > time.monotonic()) & (self._tile[codes] == item_tile(t_us))
        missing: Ints = codes[~fresh]
        CACHE.labels("hit").inc(len(codes) - len(missing))
        CACHE.labels("miss").inc(len(missing))
        return missing

    def put(self, codes: Ints, states: Sequence[bytes | None], t_us: int, ttl_s: float) -> None:
        """Takes over rows just read, good for about `ttl_s`: spread, so that they do not all expire at once.

        Raises LateEventError for a time too far before an item's newest event.
        """
        until = time.monotonic() + ttl_s * self._rng.uniform(0.75, 1.25, len(codes))
        for code, state, end in zip(codes.tolist(), states, until.tolist(), strict=True):
            self.values[code] = item_values(state, t_us)
            self.watermarks[code] = watermark(ITEM_FOLD, state)
            self._tile[code], self._until[code] = item_tile(t_us), end

    def fill(self, read: ReadItems, t_us: int, ttl_s: float) -> None:
        """Reads every item's row and works out the trend; blocks, and leaves the processor to others in between."""
        for start in range(0, len(self.item_ids), _CHUNK):
            codes = np.arange(start, min(start + _CHUNK, len(self.item_ids)))
            self.put(codes, read(self.item_ids[start : start + _CHUNK]), t_us, ttl_s)
        likes = self.values[:, _DAY_LIKES], self.values[:, _WEEK_LIKES]
        self.trending = trending_scores(*likes, short_share=1 / 7)
