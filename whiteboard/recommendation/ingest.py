"""Bulk ingest: a user's own catalogue and interactions, checked against their contract, sent through the event log.

    whiteboard recommendation ingest --items items.csv --interactions clicks.parquet

    item_id,title,categories,price,event_timestamp            user_id,item_id,event_timestamp,event_type,value
    i-88,Willow trellis,garden|wood,24.90,2026-01-03T00:00:00Z      u-12,i-88,2026-10-01T12:03:44Z,click,

Of an item only `item_id` and `title` are needed; its first category is the main one, and `event_timestamp` is when it
was listed (default: before its first interaction). `event_type` is view, click, purchase or rating; `value` the price
paid or the stars. Optional columns of interactions are interaction_id, request_id and position. Files that break this
are refused before anything is sent.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whiteboard.datafiles import Checker, numbers, read, utc
from whiteboard.erasures import Erasures
from whiteboard.eventlog import EventProducer
from whiteboard.recommendation.events import (
    IMPRESSIONS,
    INTERACTIONS,
    ITEMS,
    NO_CATEGORY,
    SCHEMAS,
    SYSTEM,
    Impression,
    Interaction,
    Item,
    Shown,
)
from whiteboard.recommendation.privacy import USER
from whiteboard.settings import Settings
from whiteboard.windows import micros

EVENT_TYPES = ("view", "click", "purchase", "rating")
MAX_PRICE = 1_000_000
MAX_POSITION = 1_000
_CHUNK = 20_000  # rows turned into Python objects at a time

OnProgress = Callable[[int, int], None]  # (events sent, of how many)


def read_items(path: Path) -> pd.DataFrame:
    """The file's catalogue: item_id, title, categories (|-separated), price (NaN: unknown), event_timestamp (or NaT).

    Raises ContractError with column, row (the first data row is 1), value and expectation.
    """
    return read(path, checked_items)


def read_interactions(path: Path, items: pd.DataFrame | None = None) -> pd.DataFrame:
    """The file's interactions in the contract's columns and types, in order of event_timestamp, with their category.

    With a catalogue an interaction with an item that is not in it is refused; without one, no category is known.
    Raises ContractError as `read_items` does.
    """
    return read(path, lambda frame, source: checked_interactions(frame, items, source))


def checked_items(frame: pd.DataFrame, source: str = "items") -> pd.DataFrame:
    """`frame` in the contract's types, or a ContractError for its first bad value."""
    check = Checker(frame, source, ("item_id", "title"))
    frame = check.frame
    out = pd.DataFrame({"item_id": check.ids("item_id", unique=True)})
    check.refuse("title", frame["title"].isna(), "a title")
    out["title"] = frame["title"].astype(str)
    out["categories"] = frame["categories"].map(_joined) if "categories" in frame else ""
    if "categories" in frame:
        longest = out["categories"].str.split("|").map(lambda names: max(map(len, names)))
        check.refuse("categories", longest > 64, "names of at most 64 characters, separated by |")
    out["price"] = check.numbers("price", 0, MAX_PRICE, optional=True) if "price" in frame else np.nan
    out["event_timestamp"] = pd.Series(pd.NaT, out.index, dtype="datetime64[us, UTC]")
    if "event_timestamp" in frame:
        listed = utc(frame["event_timestamp"])
        check.refuse("event_timestamp", listed.isna() & frame["event_timestamp"].notna(), "a time in UTC, or empty")
        check.past("event_timestamp", listed.fillna(pd.Timestamp(0, tz="UTC")))
        out["event_timestamp"] = listed
    return out


def _joined(categories: Any) -> str:
    if isinstance(categories, str):
        return "|".join(part for part in (name.strip() for name in categories.split("|")) if part)
    return "|".join(map(str, categories)) if isinstance(categories, list | tuple | np.ndarray) else ""


def main_category(categories: str) -> str:
    """The first of |-separated categories.

    >>> main_category("garden|wood"), main_category("")
    ('garden', 'other')
    """
    return categories.partition("|")[0] or NO_CATEGORY


def checked_interactions(
    frame: pd.DataFrame, items: pd.DataFrame | None = None, source: str = "interactions"
) -> pd.DataFrame:
    """`frame` in the contract's types and in order of event_timestamp, or a ContractError for its first bad value."""
    check = Checker(frame, source, ("user_id", "item_id", "event_timestamp", "event_type"))
    frame = check.frame
    given = "interaction_id" in frame
    made = pd.Series([f"x-{row:09d}" for row in range(len(frame))], frame.index, dtype=str)
    out = pd.DataFrame({"interaction_id": check.ids("interaction_id", unique=True) if given else made})
    out["user_id"], out["item_id"] = check.ids("user_id"), check.ids("item_id")
    if items is not None:
        check.refuse("item_id", ~out["item_id"].isin(items["item_id"]), "an item of the catalogue")
    out["event_timestamp"] = check.times("event_timestamp")
    check.past("event_timestamp", out["event_timestamp"])
    kind = frame["event_type"].astype(str)
    check.refuse("event_type", ~kind.isin(EVENT_TYPES), f"one of {', '.join(EVENT_TYPES)}")
    out["event_type"] = kind
    out["value"] = check.numbers("value", -MAX_PRICE, MAX_PRICE, optional=True) if "value" in frame else np.nan
    if "value" in frame:
        check.refuse("value", (kind == "purchase") & (out["value"] < 0), "a price paid, not below 0")
    out["category"] = _category(out["item_id"], items)
    out["request_id"] = None
    if "request_id" in frame:
        request = frame["request_id"]
        text = request.astype("string")
        check.refuse(
            "request_id", text.str.len().gt(64).fillna(False).astype(bool), "an id of 1 to 64 characters, or empty"
        )
        out["request_id"] = text
    out["position"] = numbers(frame["position"]) if "position" in frame else np.nan
    if "position" in frame:
        check.numbers("position", 1, MAX_POSITION, optional=True)
    return out.sort_values("event_timestamp", kind="stable", ignore_index=True)


def _category(item_ids: "pd.Series[str]", items: pd.DataFrame | None) -> "pd.Series[str]":
    if items is None:
        return pd.Series(NO_CATEGORY, item_ids.index)
    return item_ids.map(dict(zip(items["item_id"], items["categories"].map(main_category), strict=True)))


@dataclass(frozen=True, slots=True)
class Ingested:
    """What was sent by topic, and how fast."""

    sent: dict[str, int]
    seconds: float

    @property
    def events(self) -> int:
        return sum(self.sent.values())

    @property
    def events_per_s(self) -> float:
        """Events sent and acknowledged per second."""
        return self.events / max(self.seconds, 1e-9)


def ingest(
    settings: Settings,
    items: pd.DataFrame,
    interactions: pd.DataFrame,
    shown: pd.DataFrame | None = None,
    *,
    progress: OnProgress = lambda done, total: None,
) -> Ingested:
    """Sends checked items, interactions and impressions in order of time, stamped with that time.

    `shown` are impressions as rows: request_id, event_timestamp, user_id, item_id, position, propensity, in order of
    request and position. An item without a time of listing is listed before its first interaction. The past of users
    who were erased is left out. Raises EventLogUnavailableError if not every event was acknowledged.
    """
    erasures = Erasures(settings, SYSTEM, USER)
    interactions, shown = erasures.others(interactions), None if shown is None else erasures.others(shown)
    began = pd.Timestamp(0, tz="UTC") if interactions.empty else interactions["event_timestamp"].min()
    items = items.assign(event_timestamp=items["event_timestamp"].fillna(began))
    requests = pd.DataFrame() if shown is None else shown.drop_duplicates("request_id")
    total, started = len(items) + len(interactions) + len(requests), time.perf_counter()
    category = dict(zip(items["item_id"], items["categories"].map(main_category), strict=True))
    slates = None if shown is None else iter(_impressions(shown, category))
    with EventProducer(settings, "ingest", SCHEMAS, linger_ms=20) as producer:
        for done, (kind, row) in enumerate(_in_order(items, requests, interactions), 1):
            if kind == 0:
                send_item(producer, row)
            elif kind == 1 and slates is not None:
                send_impression(producer, next(slates))
            else:
                send_interaction(producer, interaction_of(row))
            if done % 1_000 == 0:
                progress(done, total)
        producer.flush(timeout_s=120)
    progress(total, total)
    sent = {ITEMS: len(items), INTERACTIONS: len(interactions), IMPRESSIONS: len(requests)}
    return Ingested({topic: count for topic, count in sent.items() if count}, time.perf_counter() - started)


def _in_order(*frames: pd.DataFrame) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the frame, row) of all frames in order of event_timestamp; of equal times the earlier frame first."""
    parts = [frame["event_timestamp"] for frame in frames if len(frame)]
    numbers_of = [np.full(len(frame), n) for n, frame in enumerate(frames)]
    kinds, rows = np.concatenate(numbers_of), np.concatenate([np.arange(len(frame)) for frame in frames])
    order = pd.concat(parts, ignore_index=True).argsort(kind="stable").to_numpy()
    for start in range(0, len(order), _CHUNK):
        part = order[start : start + _CHUNK]
        records = [
            iter([(k, dict(r)) for r in frames[k].iloc[rows[part[kinds[part] == k]]].to_dict("records")])
            for k in range(len(frames))
        ]
        for at in part:
            yield next(records[kinds[at]])


def _impressions(shown: pd.DataFrame, category: dict[str, str]) -> Iterator[Impression]:
    for request_id, rows in _runs(shown):
        items = [
            Shown(
                item_id=item_id,
                position=int(position),
                score=0.0,
                source="history",
                category=category.get(item_id, NO_CATEGORY),
                propensity=float(propensity),
            )
            for item_id, position, propensity in zip(rows["item_id"], rows["position"], rows["propensity"], strict=True)
        ]
        yield Impression(
            request_id=request_id,
            event_timestamp=rows["event_timestamp"].iloc[0].to_pydatetime(),
            user_id=rows["user_id"].iloc[0],
            items=items,
            candidates=len(items),
            model_version="history",
            latency_ms=0.0,
        )


def _runs(shown: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each request's rows; requests in order of time, which is the order of the rows."""
    begins = np.flatnonzero(shown["request_id"].ne(shown["request_id"].shift()).to_numpy())
    for first, last in zip(begins, [*begins[1:], len(shown)], strict=True):
        rows = shown.iloc[first:last]
        yield str(rows["request_id"].iloc[0]), rows


def send_item(producer: EventProducer, row: dict[str, Any]) -> None:
    """Sends one row of a checked catalogue, stamped with when it was listed."""
    event = Item(
        item_id=row["item_id"],
        event_timestamp=row["event_timestamp"].to_pydatetime(),
        title=row["title"],
        categories=[name for name in row["categories"].split("|") if name],
        price=None if pd.isna(row["price"]) else float(row["price"]),
    )
    producer.send(ITEMS, event, key=event.item_id, created_us=micros(event.event_timestamp))


def interaction_of(row: dict[str, Any]) -> Interaction:
    """The event of one row of a checked interactions frame."""
    return Interaction(
        interaction_id=row["interaction_id"],
        event_timestamp=row["event_timestamp"].to_pydatetime(),
        user_id=row["user_id"],
        item_id=row["item_id"],
        event_type=row["event_type"],
        value=None if pd.isna(row["value"]) else float(row["value"]),
        category=row["category"],
        request_id=None if pd.isna(row["request_id"]) else row["request_id"],
        position=None if pd.isna(row["position"]) else int(row["position"]),
    )


def send_interaction(producer: EventProducer, event: Interaction, *, created_us: int | None = None) -> None:
    """Sends an interaction, stamped with `created_us` or else with when it happened."""
    stamp = micros(event.event_timestamp) if created_us is None else created_us
    producer.send(INTERACTIONS, event, key=event.user_id, created_us=stamp)


def send_impression(producer: EventProducer, event: Impression) -> None:
    """Sends an impression of history, stamped with when it was shown."""
    producer.send(IMPRESSIONS, event, key=event.user_id, created_us=micros(event.event_timestamp))
