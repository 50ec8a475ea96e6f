"""Online rows and generated SQL agree, by category and by item too, whatever the order of delivery, crash or delay.

The SQL of both executors, DuckDB and Spark.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

import duckdb
import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import OfflineEngine
from tests.itemrows import item_values
from whiteboard.errors import LateEventError
from whiteboard.recommendation.events import INTERACTIONS, EventType, Interaction
from whiteboard.recommendation.features import (
    FEATURES,
    ITEM_FOLD,
    RECENT,
    SCORES,
    USER_FOLD,
    Coded,
    candidate_matrix,
    item_tile,
    point_in_time_sql,
    recent_items_sql,
    unseen_events_sql,
    user_values,
    watermark,
)
from whiteboard.windows import HOUR, micros
from whiteboard.windows_sql import Visibility

START = datetime(2026, 3, 1, tzinfo=UTC)
USERS, PARTITIONS = ("u1", "u2"), 2
CATEGORY = {"i1": "garden", "i2": "garden", "i3": "books"}
ITEMS = tuple(CATEGORY)

# Times fall on tile borders, just beside them and in between, so that ties and borders are common.
moments = st.builds(
    lambda days, hours, minutes, micros_: timedelta(days=days, hours=hours, minutes=minutes, microseconds=micros_),
    st.integers(0, 40),
    st.integers(0, 23),
    st.sampled_from([0, 5, 55]),
    st.sampled_from([0, 1, -1]),
)


@st.composite
def interactions(draw: st.DrawFn) -> Interaction:
    item_id = draw(st.sampled_from(ITEMS))
    event_type: EventType = draw(st.sampled_from(["view", "click", "purchase", "rating"]))
    return Interaction(
        interaction_id=str(draw(st.integers(0, 10**9))),
        event_timestamp=START + draw(moments),
        user_id=draw(st.sampled_from(USERS)),
        item_id=item_id,
        event_type=event_type,
        value=draw(st.sampled_from([None, 0.0, 9.99, 120.5])),
        category=CATEGORY[item_id],
    )


def coded(names: Sequence[str]) -> Coded:
    of = {name: code for code, name in enumerate(sorted(set(names)))}
    return Coded(np.array([of[name] for name in names]), of)


@dataclass
class World:
    """A log, the rows folded from it, and requests for all items made on the way."""

    log: list[tuple[int, int, Interaction]] = field(default_factory=list)  # partition, offset, event
    rows: dict[str, bytes] = field(default_factory=dict)
    shown: list[dict[str, object]] = field(default_factory=list)
    online: list[np.ndarray] = field(default_factory=list)
    requests: list[dict[str, object]] = field(default_factory=list)
    recent: list[list[str]] = field(default_factory=list)

    def append(self, event: Interaction, partition: int) -> None:
        self.log.append((partition, sum(p == partition for p, _, _ in self.log), event))

    def deliver(self, position: int) -> None:
        partition, offset, event = self.log[position]
        for fold, key in ((USER_FOLD, event.user_id), (ITEM_FOLD, event.item_id)):
            row = fold.decode(self.rows.get(key))
            fold.fold(row, event, INTERACTIONS, 0, partition, offset)
            self.rows[key] = fold.encode(row)

    def request(self, user_id: str, t: datetime) -> None:
        """Every item is a candidate; what was logged of each, and its features as the service computes them."""
        scores = np.arange(len(ITEMS) * len(SCORES), dtype=np.float64).reshape(len(ITEMS), -1)
        price, age = np.array([10.0, np.nan, 3.5]), np.array([0.0, 1.5, 90.0])
        user = user_values(self.rows.get(user_id), micros(t))
        items = np.array([item_values(self.rows.get(item), micros(t)) for item in ITEMS])
        matrix = candidate_matrix(user, coded(ITEMS), coded([CATEGORY[i] for i in ITEMS]), items, price, age, scores)
        request: dict[str, object] = {"request_id": str(len(self.recent)), "user_id": user_id}
        request |= {"event_timestamp": t, "created_timestamp": t}
        user_mark = watermark(USER_FOLD.decode(self.rows.get(user_id)))
        marks = [{"user": user_mark, "item": watermark(ITEM_FOLD.decode(self.rows.get(item)))} for item in ITEMS]
        self.requests.append(request | {"watermarks": json.dumps(marks[0])})
        self.recent.append(user.recent)
        for i, item in enumerate(ITEMS):
            self.shown.append(
                request
                | {"shown_id": str(len(self.shown)), "item_id": item, "watermarks": json.dumps(marks[i])}
                | {"category": CATEGORY[item], "price": price[i], "item_age_days": age[i]}
                | dict(zip(SCORES, scores[i], strict=True))
            )
            self.online.append(matrix[i])

    def tables(self) -> dict[str, pd.DataFrame]:
        """The lake's interactions, where one becomes known when it happens, what was shown, and the requests."""
        known = [
            msgspec.structs.asdict(event)
            | {"epoch": 0, "partition": p, "offset": o, "created_timestamp": event.event_timestamp}
            for p, o, event in self.log
        ]
        times = dict.fromkeys(("event_timestamp", "created_timestamp"), "datetime64[us, UTC]")
        interactions = pd.DataFrame(known).astype(times).astype({"value": float})
        shown, requests = (pd.DataFrame(rows).astype(times) for rows in (self.shown, self.requests))
        return {"interactions": interactions, "shown": shown, "requests": requests}

    def assert_equal(self, engine: OfflineEngine, visibility: Visibility) -> None:
        tables = self.tables()
        offline = engine.query(tables, lambda d: point_in_time_sql("shown", "interactions", visibility, d))
        offline = offline.sort_values("shown_id", key=lambda ids: ids.astype(int))[list(FEATURES)]
        np.testing.assert_allclose(offline.to_numpy(dtype=float), np.array(self.online), rtol=1e-12)
        found = engine.query(tables, lambda d: recent_items_sql("requests", "interactions", visibility, d))
        found = found.sort_values("request_id", key=lambda ids: ids.astype(int))
        assert [list(recent) for recent in found["recent"]] == self.recent


def together(worlds: list[World]) -> World:
    """All worlds as one: their users and items are renamed, so that they share nothing but partitions and offsets."""
    one = World()
    for n, world in enumerate(worlds):
        renamed = [
            (p, o, msgspec.structs.replace(e, user_id=f"{n}/{e.user_id}", item_id=f"{n}/{e.item_id}"))
            for p, o, e in world.log
        ]
        one.log += renamed
        own = {id(row): {"user_id": f"{n}/{row['user_id']}"} for row in (*world.requests, *world.shown)}
        first, request = len(one.shown), len(one.requests)
        for i, row in enumerate(world.shown):
            ids = {"shown_id": str(first + i), "request_id": str(request + int(str(row["request_id"])))}
            one.shown.append(row | own[id(row)] | ids | {"item_id": f"{n}/{row['item_id']}"})
        for i, row in enumerate(world.requests):
            one.requests.append(row | own[id(row)] | {"request_id": str(request + i)})
        one.online += world.online
        one.recent += [[f"{n}/{item}" for item in recent] for recent in world.recent]
    return one


def assert_each(engine: OfflineEngine, visibility: Visibility, examples: int, world: st.SearchStrategy[World]) -> None:
    """Online and offline values are equal in each of `examples` worlds.

    DuckDB is asked world by world, so that a failing one is made small. For Spark, where a query takes seconds, they
    live side by side in a single one.
    """
    worlds: list[World] = []

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(world)
    def example(one: World) -> None:
        worlds.append(one)
        if engine.name == "duckdb" and one.shown:
            one.assert_equal(engine, visibility)

    example()
    together(worlds).assert_equal(engine, visibility)


@st.composite
def lived(draw: st.DrawFn) -> World:
    """A world in which events were delivered in some order, some of them again after a crash, and users asked."""
    world = World()
    for event in draw(st.lists(interactions(), min_size=1, max_size=14)):
        world.append(event, USERS.index(event.user_id) % PARTITIONS)
    queues = [[n for n, (p, _, _) in enumerate(world.log) if p == partition] for partition in range(PARTITIONS)]
    heads = [0] * PARTITIONS
    while any(heads[q] < len(queues[q]) for q in range(PARTITIONS)):
        q = draw(st.sampled_from([q for q in range(PARTITIONS) if heads[q] < len(queues[q])]))
        world.deliver(queues[q][heads[q]])
        heads[q] += 1
        if draw(st.booleans()):  # a crash: some of what was delivered comes again, in its order
            for again in queues[q][draw(st.integers(0, heads[q])) : heads[q]]:
                world.deliver(again)
        if draw(st.booleans()):
            newest = max(event.event_timestamp for *_, event in world.log)
            world.request(
                draw(st.sampled_from(USERS)),
                newest + draw(st.sampled_from([timedelta(0), timedelta(minutes=7), timedelta(days=2)])),
            )
    return world


def as_known_in_the_middle(events: list[Interaction]) -> World:
    """A log in order of time, and a request that was answered in its middle, with what was known before."""
    world, before = World(), World()
    events = sorted(events, key=lambda e: e.event_timestamp)
    middle = events[len(events) // 2].event_timestamp
    for event in events:
        world.append(event, 0)
    before.log = world.log
    for position, (*_, event) in enumerate(world.log):
        if event.event_timestamp < middle:
            before.deliver(position)
    before.request("u1", middle)
    return before


def test_online_values_equal_sql_values_at_every_point(engine: OfflineEngine) -> None:
    assert_each(engine, "watermark", 60, lived())


def test_a_training_row_sees_only_what_became_known_before_it(engine: OfflineEngine) -> None:
    assert_each(engine, "created", 40, st.lists(interactions(), min_size=2, max_size=16).map(as_known_in_the_middle))


@settings(max_examples=60, deadline=None)
@given(st.lists(interactions(), max_size=25), st.randoms(use_true_random=False))
def test_the_final_rows_do_not_depend_on_how_partitions_interleave(events: list[Interaction], rng: Random) -> None:
    """One event a partition: any order of delivery gives the same row, and forgets the same groups."""
    order, rows = list(range(len(events))), []
    for _ in range(2):
        row = USER_FOLD.decode(None)
        for i in order:
            USER_FOLD.fold(row, events[i], INTERACTIONS, 0, i, 0)
        rows.append(msgspec.to_builtins(row, str_keys=True))
        rng.shuffle(order)
    assert rows[0] == rows[1]


def click(number: int, at: datetime, item_id: str = "i1", **changes: object) -> Interaction:
    made = Interaction(
        interaction_id=f"x-{number}",
        event_timestamp=at,
        user_id="u1",
        item_id=item_id,
        event_type="click",
        category="garden",
    )
    return msgspec.structs.replace(made, **changes)


def folded(events: list[Interaction]) -> bytes:
    row = USER_FOLD.decode(None)
    for offset, event in enumerate(events):
        USER_FOLD.fold(row, event, INTERACTIONS, 0, 0, offset)
    return USER_FOLD.encode(row)


def test_what_was_liked_is_remembered_and_consumed_and_what_was_seen_is_not() -> None:
    events = [click(0, START), click(1, START, "i2", event_type="view"), click(2, START + timedelta(hours=1), "i3")]
    user = user_values(folded(events), micros(START + timedelta(hours=2)))
    assert (user.recent, user.consumed) == (["i3", "i1"], {"i1", "i3"})
    assert user.views == {"i2": (1.0,)}
    assert user_values(folded(events), micros(START + timedelta(days=32))).consumed == set(), "a month is enough"


def test_a_row_forgets_groups_and_ids_beyond_its_windows() -> None:
    sizes = []
    for days in (40, 80):
        events = [click(n, START + timedelta(hours=n), f"i{n:04d}") for n in range(24 * days)]
        sizes.append(len(folded(events)))
        assert len(user_values(folded(events), micros(events[-1].event_timestamp)).recent) == RECENT
    assert sizes[1] <= sizes[0] * 1.02, "two windows' worth of events takes no more than one"


def test_an_items_values_are_the_same_all_through_an_item_tile() -> None:
    row = ITEM_FOLD.decode(None)
    for n in range(200):
        ITEM_FOLD.fold(row, click(n, START + timedelta(hours=n)), INTERACTIONS, 0, 0, n)
    state, first = ITEM_FOLD.encode(row), micros(START + timedelta(hours=200))
    values = {item_values(state, t) for t in range(first, first + HOUR, HOUR // 7)}
    assert len(values) == 1 and item_tile(first) == item_tile(first + HOUR - 1)
    assert item_values(state, first + HOUR) not in values


def test_a_user_and_items_never_seen_have_counts_of_zero_and_no_shares() -> None:
    user = user_values(None, micros(START))
    items = np.array([item_values(None, micros(START))])
    row = candidate_matrix(
        user, coded(["i9"]), coded(["toys"]), items, np.array([5.0]), np.array([0.0]), np.zeros((1, 3))
    )[0]
    values = dict(zip(FEATURES, row, strict=True))
    assert values["user_likes_30d"] == values["item_likes_7d"] == values["user_category_likes_7d"] == 0
    assert np.isnan(values["category_share_7d"]) and np.isnan(values["price_to_mean"])
    assert values["item_like_rate_7d"] == pytest.approx(1 / 20)


def test_what_a_user_did_with_items_that_are_no_candidates_leaves_the_candidates_values_alone() -> None:
    events = [
        click(0, START, "gone", category="gone"),
        click(1, START, "i1"),
        click(2, START, "seen", event_type="view"),
    ]
    user = user_values(folded(events), micros(START))
    items = np.array([item_values(None, micros(START))] * 2)
    kinds = coded(["garden", "toys"])
    matrix = candidate_matrix(user, coded(["i1", "i2"]), kinds, items, np.ones(2), np.ones(2), np.ones((2, 3)))
    values = pd.DataFrame(matrix, columns=FEATURES)
    assert values["user_item_likes_30d"].tolist() == values["user_category_likes_7d"].tolist() == [1, 0]
    assert values["user_item_views_3d"].tolist() == [0, 0]


def test_a_request_from_before_the_rows_reach_is_refused_by_name() -> None:
    with pytest.raises(LateEventError, match=r"user: .* 25\.0 h before"):
        user_values(folded([click(0, START)]), micros(START - timedelta(hours=25)))


def test_a_row_that_had_not_seen_an_interaction_known_before_it_is_stale() -> None:
    world = World()
    world.append(click(0, START), 0)
    world.append(click(1, START + timedelta(minutes=1)), 0)
    world.deliver(0)
    world.request("u1", START + timedelta(hours=1))
    world.deliver(1)
    world.request("u1", START + timedelta(hours=1))
    connection, tables = duckdb.connect(), world.tables()
    for name, frame in tables.items():
        connection.register(name, frame)
    stale = connection.sql(unseen_events_sql("shown", "interactions")).fetchall()
    assert {name for (name,) in stale} == {"0", "1", "2"}, "the first request's rows, and not the second's"
