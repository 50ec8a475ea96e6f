"""The executors of the feature definitions agree: online fold, online value, generated SQL in DuckDB and in Spark."""

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random

import msgspec
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import OfflineEngine
from whiteboard.errors import LateEventError
from whiteboard.fraud.events import LABELS, TRANSACTIONS, Label, Transaction
from whiteboard.fraud.features import (
    CUSTOMER_FOLD,
    FEATURES,
    TERMINAL_FOLD,
    online_values,
    point_in_time_sql,
    watermarks,
)
from whiteboard.windows import LATENESS
from whiteboard.windows_sql import Visibility

START = datetime(2026, 3, 1, tzinfo=UTC)
CUSTOMERS, TERMINALS, PARTITIONS = ("c1", "c2"), ("m1", "m2"), 3
COUNTS = {name for name in FEATURES if "count" in name or name.endswith("_days")}

# Times fall on tile borders, just beside them and in between, so that ties and borders are common.
moments = st.builds(
    lambda days, hours, five_minutes, micros: timedelta(
        days=days, hours=hours, minutes=5 * five_minutes, microseconds=micros
    ),
    st.integers(0, 130),
    st.integers(0, 23),
    st.sampled_from([0, 1, 11]),
    st.sampled_from([0, 1, -1, 777]),
)
amounts = st.one_of(
    st.sampled_from([0.0, 0.01, 20.0, 220.0, 220.01]), st.floats(0, 1_000_000).map(lambda x: round(x, 2))
)


@st.composite
def transactions(draw: st.DrawFn) -> Transaction:
    return Transaction(
        transaction_id=str(draw(st.integers(0, 10**9))),
        event_timestamp=START + draw(moments),
        customer_id=draw(st.sampled_from(CUSTOMERS)),
        terminal_id=draw(st.sampled_from(TERMINALS)),
        amount=draw(amounts),
    )


@st.composite
def labels(draw: st.DrawFn) -> Label:
    made = START + draw(moments)
    return Label(
        transaction_id=str(draw(st.integers(0, 10**9))),
        event_timestamp=made + timedelta(days=draw(st.integers(0, 9))),
        transaction_timestamp=made,
        customer_id=draw(st.sampled_from(CUSTOMERS)),
        terminal_id=draw(st.sampled_from(TERMINALS)),
        amount=draw(amounts),
        is_fraud=draw(st.booleans()),
    )


@dataclass
class World:
    """A log with its lake, the online rows folded from it, and the probes made on the way."""

    log: list[tuple[str, int, int, int, Transaction | Label]] = field(default_factory=list)
    rows: dict[tuple[str, str], bytes] = field(default_factory=dict)
    probes: list[dict[str, object]] = field(default_factory=list)
    online: list[dict[str, float]] = field(default_factory=list)
    refused: int = 0

    def append(self, event: Transaction | Label, epoch: int, partition: int) -> int:
        topic = TRANSACTIONS if isinstance(event, Transaction) else LABELS
        offset = sum(t == topic and e == epoch and p == partition for t, e, p, _, _ in self.log)
        self.log.append((topic, epoch, partition, offset, event))
        return len(self.log) - 1

    def deliver(self, position: int) -> None:
        topic, epoch, partition, offset, event = self.log[position]
        for fold, key in ((CUSTOMER_FOLD, event.customer_id), (TERMINAL_FOLD, event.terminal_id)):
            if fold is CUSTOMER_FOLD and topic == LABELS:
                continue
            row = fold.decode(self.rows.get((fold.entity, key)))
            fold.fold(row, event, topic, epoch, partition, offset)
            self.rows[fold.entity, key] = fold.encode(row)

    def probe(self, t: datetime, customer: str, terminal: str, amount: float) -> None:
        states = self.rows.get(("customer", customer)), self.rows.get(("terminal", terminal))
        t_us = int((t - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
        try:
            self.online.append(online_values(amount, t_us, *states))
        except LateEventError:
            newest = max(CUSTOMER_FOLD.decode(states[0]).newest, TERMINAL_FOLD.decode(states[1]).newest)
            assert t_us < newest - LATENESS
            self.refused += 1
            return
        self.probes.append(
            {
                "transaction_id": str(len(self.probes)),
                "customer_id": customer,
                "terminal_id": terminal,
                "amount": amount,
                "event_timestamp": t,
                "created_timestamp": t,
                "watermarks": json.dumps(watermarks(*states)),
            }
        )


def _shortly_after(newest: datetime, span: timedelta) -> datetime:
    return newest + span / 10


Log = list[tuple[str, int, int, int, Transaction | Label]]


def query(engine: OfflineEngine, probes: pd.DataFrame, log: Log, visibility: Visibility) -> pd.DataFrame:
    """The features of `probes` by the engine's SQL, a row each, in the order of their ids, which are numbers."""
    tables = {"transactions": lake_table(log, Transaction), "labels": lake_table(log, Label)}
    tables["probes"] = probes.astype(dict.fromkeys(("event_timestamp", "created_timestamp"), "datetime64[us, UTC]"))
    found = engine.query(
        tables, lambda dialect: point_in_time_sql("probes", "transactions", "labels", visibility, dialect)
    )
    return found.sort_values("transaction_id", key=lambda ids: ids.astype(int), ignore_index=True)


def lake_table(log: Log, kind: type[Transaction] | type[Label]) -> pd.DataFrame:
    """The events of `kind` as the lake has them; one becomes known when it happens."""
    columns = [f.name for f in msgspec.structs.fields(kind)]
    records = [
        {
            **{c: getattr(event, c) for c in columns},
            "epoch": e,
            "partition": p,
            "offset": o,
            "created_timestamp": event.event_timestamp,
        }
        for _, e, p, o, event in log
        if isinstance(event, kind)
    ]
    frame = pd.DataFrame(records, columns=[*columns, "epoch", "partition", "offset", "created_timestamp"])
    times = [c for c in (*columns, "created_timestamp") if c.endswith("timestamp")]
    frame[times] = frame[times].astype("datetime64[us, UTC]")
    if frame.empty:
        frame = frame.astype(
            {
                "customer_id": "string",
                "terminal_id": "string",
                "amount": float,
                "epoch": int,
                "partition": int,
                "offset": int,
            }
        )
        if kind is Label:
            frame = frame.astype({"is_fraud": bool})
    return frame


def together(worlds: list[World]) -> World:
    """All worlds as one: their entities are renamed, so that they share nothing but partitions and offsets."""
    one = World()
    for n, world in enumerate(worlds):
        for *place, event in world.log:
            ids = {"customer_id": f"{n}/{event.customer_id}", "terminal_id": f"{n}/{event.terminal_id}"}
            one.log.append((*place, msgspec.structs.replace(event, **ids)))  # type: ignore[arg-type]
        for probe in world.probes:
            ids = {name: f"{n}/{probe[name]}" for name in ("customer_id", "terminal_id")}
            one.probes.append(probe | ids | {"transaction_id": str(len(one.probes))})
        one.online += world.online
    return one


def assert_equal(online: list[dict[str, float]], offline: pd.DataFrame) -> None:
    assert len(online) == len(offline)
    for expected, (_, found) in zip(online, offline.iterrows(), strict=True):
        assert set(expected) == set(FEATURES)
        for name in FEATURES:
            a, b = expected[name], float(found[name])
            exact = name in COUNTS
            same = (math.isnan(a) and math.isnan(b)) or (a == b if exact else math.isclose(a, b, rel_tol=1e-9))
            assert same, f"{name}: online {a!r}, offline {b!r}, row {dict(found)}"


@st.composite
def lived(draw: st.DrawFn) -> World:
    """A world in which events were delivered in some order, some of them again after a crash, and probes were made."""
    world = World()
    epochs = draw(st.integers(1, 2))
    for epoch in range(epochs):
        events = draw(st.lists(st.one_of(transactions(), labels()), min_size=1, max_size=14))
        # any partition for any event: an entity may move between partitions
        positions = [world.append(e, epoch, draw(st.integers(0, PARTITIONS - 1))) for e in events]
        queues: dict[tuple[str, int], list[int]] = {}
        for position in positions:
            topic, _, partition, _, _ = world.log[position]
            queues.setdefault((topic, partition), []).append(position)
        heads = dict.fromkeys(queues, 0)
        while any(heads[q] < len(queues[q]) for q in queues):
            q = draw(st.sampled_from([q for q in queues if heads[q] < len(queues[q])]))
            world.deliver(queues[q][heads[q]])
            heads[q] += 1
            if draw(st.booleans()):  # a crash: some of what was delivered comes again, in its order
                back = draw(st.integers(0, heads[q]))
                for again in queues[q][back : heads[q]]:
                    world.deliver(again)
            if draw(st.booleans()):
                newest = max(e.event_timestamp for *_, e in world.log)
                t = draw(
                    st.one_of(
                        st.just(newest), moments.map(lambda m: START + m), moments.map(partial(_shortly_after, newest))
                    )
                )
                world.probe(t, draw(st.sampled_from(CUSTOMERS)), draw(st.sampled_from(TERMINALS)), draw(amounts))
    return world


def just_before_each_transaction(events: list[Transaction | Label]) -> World:
    """A log in order of time, with the online values of each transaction from what was known before it."""
    world = World()
    for event in sorted(events, key=lambda e: e.event_timestamp):
        world.append(event, 0, 0)
    for *_, event in world.log:
        if isinstance(event, Transaction):
            fresh = World(log=world.log)
            known = [n for n, entry in enumerate(world.log) if entry[-1].event_timestamp < event.event_timestamp]
            for position in known:
                fresh.deliver(position)
            fresh.probe(event.event_timestamp, event.customer_id, event.terminal_id, event.amount)
            world.online += fresh.online
            world.probes += fresh.probes
    return together([world])


def assert_each(engine: OfflineEngine, visibility: Visibility, examples: int, world: st.SearchStrategy[World]) -> None:
    """Online and offline values are equal in each of `examples` worlds.

    DuckDB is asked world by world, so that a failing one is made small. For Spark, where a query takes seconds, they
    live side by side in a single one.
    """
    worlds: list[World] = []

    def check(one: World) -> None:
        if one.probes:
            assert_equal(one.online, query(engine, pd.DataFrame(one.probes), one.log, visibility))

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(world)
    def example(one: World) -> None:
        worlds.append(one)
        if engine.name == "duckdb":
            check(one)

    example()
    check(together(worlds))


def test_online_value_equals_sql_value_at_every_point(engine: OfflineEngine) -> None:
    assert_each(engine, "watermark", 60, lived())


def test_training_row_sees_only_what_became_known_before_it(engine: OfflineEngine) -> None:
    """In order of arrival, the online rows just before a transaction give what the training set holds for it."""
    events = st.lists(st.one_of(transactions(), labels()), min_size=1, max_size=20)
    assert_each(engine, "created", 40, events.map(just_before_each_transaction))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(transactions(), labels()), max_size=25), st.randoms(use_true_random=False))
def test_final_row_does_not_depend_on_how_partitions_interleave(events: list[Transaction | Label], rng: Random) -> None:
    """One event a partition and topic: any order of delivery gives the same row."""
    order = list(range(len(events)))
    rows = []
    for _ in range(2):
        row = TERMINAL_FOLD.decode(None)
        for i in order:
            TERMINAL_FOLD.fold(row, events[i], TRANSACTIONS if isinstance(events[i], Transaction) else LABELS, 0, i, 0)
        rows.append(msgspec.to_builtins(row, str_keys=True))
        rng.shuffle(order)
    assert rows[0] == rows[1]


def transaction(**changes: object) -> Transaction:
    made = Transaction(transaction_id="t", event_timestamp=START, customer_id="c", terminal_id="m", amount=10.0)
    return msgspec.structs.replace(made, **changes)


def test_card_that_fell_silent_reads_as_silent() -> None:
    row = CUSTOMER_FOLD.decode(None)
    CUSTOMER_FOLD.fold(row, transaction(), TRANSACTIONS, 0, 0, 0)
    at = int(START.timestamp()) * 1_000_000
    soon, later = (CUSTOMER_FOLD.values(row, at + days * 86_400_000_000) for days in (0, 3))
    assert (soon["customer_count_1d"], later["customer_count_1d"], later["customer_count_7d"]) == (1, 0, 1)
    assert later["seconds_since_customer_last"] == 3 * 86_400


def test_replayed_event_changes_nothing_and_newer_log_starts_over() -> None:
    row = CUSTOMER_FOLD.decode(None)
    assert CUSTOMER_FOLD.fold(row, transaction(), TRANSACTIONS, 0, 0, 7)
    assert not CUSTOMER_FOLD.fold(row, transaction(), TRANSACTIONS, 0, 0, 7)
    before = CUSTOMER_FOLD.rank(row)
    assert CUSTOMER_FOLD.fold(row, transaction(), TRANSACTIONS, 1, 0, 0), "offset 0 of a new log is new"
    assert CUSTOMER_FOLD.rank(row) > before
    assert not CUSTOMER_FOLD.fold(row, transaction(), TRANSACTIONS, 0, 0, 8), "an older log has nothing to add"


def test_row_keeps_a_bounded_number_of_tiles() -> None:
    row, sizes = CUSTOMER_FOLD.decode(None), []
    for i in range(6000):
        CUSTOMER_FOLD.fold(row, transaction(event_timestamp=START + timedelta(minutes=61 * i)), TRANSACTIONS, 0, 0, i)
        sizes.append(len(CUSTOMER_FOLD.encode(row)))
    assert max(sizes[5000:]) <= max(sizes[4000:5000]) + 8, "after 170 days, all windows are full"


def test_oldest_tile_that_a_late_request_may_need_is_still_there() -> None:
    """An event 30 days before a request that itself comes as late as is allowed counts in the 30-day window."""
    row, asked = CUSTOMER_FOLD.decode(None), START + timedelta(days=30)
    CUSTOMER_FOLD.fold(row, transaction(), TRANSACTIONS, 0, 0, 0)
    CUSTOMER_FOLD.fold(row, transaction(event_timestamp=asked + timedelta(days=1)), TRANSACTIONS, 0, 0, 1)
    assert CUSTOMER_FOLD.values(row, int(asked.timestamp()) * 1_000_000)["customer_count_30d"] == 1


def test_time_too_far_behind_the_newest_event_is_refused_by_name() -> None:
    row = CUSTOMER_FOLD.decode(None)
    CUSTOMER_FOLD.fold(row, transaction(), TRANSACTIONS, 0, 0, 0)
    with pytest.raises(LateEventError, match=r"customer: .* 25\.0 h before"):
        CUSTOMER_FOLD.values(row, int(START.timestamp() - 25 * 3600) * 1_000_000)
