"""What a process knows of all items at once: catalogue, values of their windows, trend; replaced as a whole.

    snapshot = Snapshot.of(items, loaded_model)          # columns by code: the model's items first, then newer ones
    snapshot.fill(read_items, t_us)                      # every item's row, read and evaluated; in a thread
    items, missing = snapshot.take(codes, t_us)          # their values, and which must be read anew for that moment

An item's values change with its row and with the hour (features.item_tile). A row is kept for some seconds; whoever
asks for it in between is served from here (`whiteboard_recommendation_item_cache_total` counts how often). What is
logged is the watermark of the row that was used, so the cache costs freshness and never parity.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from prometheus_client import Counter

from whiteboard.events import Watermark
from whiteboard.hotswap import Loaded
from whiteboard.recommendation.candidates import Retrieval, trending_scores
from whiteboard.recommendation.events import NO_CATEGORY
from whiteboard.recommendation.features import ITEM_FOLD, item_tile, watermark
from whiteboard.recommendation.model import RecommendationModel
from whiteboard.windows import DAY
from whiteboard.windows_batch import BatchWindows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ReadItems = Callable[[Sequence[str]], list[bytes | None]]

CACHE = Counter("whiteboard_recommendation_item_cache", "item rows that requests needed", ["outcome"])
for _outcome in ("hit", "miss"):
    CACHE.labels(_outcome)

_CHUNK = 25  # rows read and evaluated at a time: the interpreter is held for about a millisecond
_WINDOWS = BatchWindows(ITEM_FOLD)
_DAY_LIKES, _WEEK_LIKES = (ITEM_FOLD.features.index(name) for name in ("item_likes_1d", "item_likes_7d"))


class Snapshot:
    """Items as columns by code. `take` and `put` are for any thread."""

    def __init__(self, items: pd.DataFrame, loaded: Loaded[RecommendationModel] | None) -> None:
        self.loaded = loaded
        self.retrieval: Retrieval | None = loaded.model.retrieval.extended(items) if loaded else None
        self.item_ids: list[str] = self.retrieval.item_ids if self.retrieval else items["item_id"].tolist()
        self.codes = {item_id: code for code, item_id in enumerate(self.item_ids)}
        listed = items.set_index("item_id").reindex(self.item_ids)
        categories = listed["categories"].fillna("")
        self.title: list[str] = listed["title"].fillna("").tolist()
        self.category: list[str] = [names.partition("|")[0] or NO_CATEGORY for names in categories]
        self.category_codes, kinds = pd.factorize(np.array(self.category, dtype=object))
        self.codes_of_categories = {name: code for code, name in enumerate(kinds)}
        self.price: Floats = listed["price"].to_numpy(dtype=np.float64)
        times = listed["event_timestamp"].astype("datetime64[us, UTC]")
        self._listed_us = np.where(times.isna(), 0, times.to_numpy(dtype="datetime64[us]").astype(np.int64))
        n = len(self.item_ids)
        self._lock = threading.Lock()  # of the entries: one is put as a whole
        self._values = np.zeros((n, len(ITEM_FOLD.features)))
        self._watermarks: list[Watermark] = [{} for _ in range(n)]
        self._states: list[bytes | None] = [None] * n
        self._tiles = [_WINDOWS.tiles(ITEM_FOLD.decode(None))] * n  # of the states
        self._until = np.zeros(n)  # time.monotonic() when an entry is to be read again
        self._tile = np.full(n, -1, dtype=np.int64)
        self._rng = np.random.default_rng(0)
        self.trending = np.zeros(n, dtype=np.float32)

    def age_days(self, t_us: int, codes: Ints | slice = slice(None)) -> Floats:
        """Days since each item, or each of `codes`, was listed, negative for one that is not yet."""
        return np.asarray((t_us - self._listed_us[codes]) / DAY)

    def popular(self) -> Ints:
        """The codes by the likes of the last week, most first; of equal ones those that trend."""
        order: Ints = np.lexsort((-self.trending, -self._values[:, _WEEK_LIKES]))
        return order

    def take(self, codes: Ints, t_us: int) -> tuple["Items", Ints]:
        """The items' values for a request at `t_us`, and which of them (places, not codes) must be read anew.

        A copy: what other threads put meanwhile may be for another hour. Rows that were evaluated for another hour are
        evaluated again. Counts hits and misses. Raises LateEventError as `put` does.
        """
        tile = item_tile(t_us)
        with self._lock:
            fresh = self._until[codes] > time.monotonic()
            other = codes[fresh & (self._tile[codes] != tile)]
            self._values[other] = _WINDOWS.values([self._tiles[code] for code in other.tolist()], t_us)
            self._tile[other] = tile
            items = Items(self._values[codes], [self._watermarks[code] for code in codes.tolist()])
        missing = np.flatnonzero(~fresh)
        CACHE.labels("hit").inc(len(codes) - len(missing))
        CACHE.labels("miss").inc(len(missing))
        return items, missing

    def put(self, codes: Ints, states: Sequence[bytes | None], t_us: int, ttl_s: float) -> "Items":
        """Takes over rows just read, good for about `ttl_s`: spread, so that they do not all expire at once.

        Returns their values at `t_us`. Raises LateEventError for a time too far before an item's newest event.
        """
        tile = item_tile(t_us)
        with self._lock:
            pairs = list(zip(codes.tolist(), states, strict=True))
            rows = {code: ITEM_FOLD.decode(state) for code, state in pairs if state != self._states[code]}
            tiles = {code: _WINDOWS.tiles(row) for code, row in rows.items()}
            other = [code for code, _ in pairs if code in rows or self._tile[code] != tile]
            values = _WINDOWS.values([tiles.get(code, self._tiles[code]) for code in other], t_us)  # may raise
            for code, state in pairs:
                if code in rows:
                    self._states[code], self._tiles[code] = state, tiles[code]
                    self._watermarks[code] = watermark(rows[code])
            self._values[other], self._tile[other] = values, tile
            self._until[codes] = time.monotonic() + ttl_s * self._rng.uniform(0.75, 1.25, len(codes))
            return Items(self._values[codes], [self._watermarks[code] for code in codes.tolist()])

    def fill(self, read: ReadItems, t_us: int, ttl_s: float, pause_s: float = 0.0) -> None:
        """Reads every item's row and works out the trend; blocks.

        Requests that are served meanwhile come in between, during pauses of `pause_s` after every 25 rows.
        """
        for start in range(0, len(self.item_ids), _CHUNK):
            codes = np.arange(start, min(start + _CHUNK, len(self.item_ids)))
            self.put(codes, read(self.item_ids[start : start + _CHUNK]), t_us, ttl_s)
            time.sleep(pause_s)
        likes = self._values[:, _DAY_LIKES], self._values[:, _WEEK_LIKES]
        self.trending = trending_scores(*likes, short_share=1 / 7)


@dataclass(frozen=True, slots=True)
class Items:
    """Values of some items at one moment, (n, features of ITEM_FOLD), and which events they hold."""

    values: Floats
    watermarks: list[Watermark]

    def replace(self, places: Ints, others: "Items") -> None:
        """Puts `others` at these places."""
        self.values[places] = others.values
        for place, mark in zip(places.tolist(), others.watermarks, strict=True):
            self.watermarks[place] = mark
