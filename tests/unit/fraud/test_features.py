"""The three executors of the feature definitions agree: online fold, online value, generated SQL."""

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random

import duckdb
import msgspec
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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

    def offline(self) -> pd.DataFrame:
        return query(pd.DataFrame(self.probes), self.log, "watermark")


def _shortly_after(newest: datetime, span: timedelta) -> datetime:
    return newest + span / 10


def query(
    probes: pd.DataFrame, log: list[tuple[str, int, int, int, Transaction | Label]], visibility: str
) -> pd.DataFrame:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
    for name, topic, kind in (("transactions", TRANSACTIONS, Transaction), ("labels", LABELS, Label)):
        columns = [f.name for f in msgspec.structs.fields(kind)]
        records = [
            {
                **{c: getattr(event, c) for c in columns},
                "epoch": e,
                "partition": p,
                "offset": o,
                "created_timestamp": event.event_timestamp,
            }
            for t, e, p, o, event in log
            if t == topic
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
        connection.register(name, frame)
    probes = probes.astype({"event_timestamp": "datetime64[us, UTC]", "created_timestamp": "datetime64[us, UTC]"})
    connection.register("probes", probes)
    sql = point_in_time_sql("probes", "transactions", "labels", visibility)  # type: ignore[arg-type]
    found: pd.DataFrame = connection.sql(f"SELECT * FROM ({sql}) ORDER BY transaction_id::BIGINT").df()
    return found


def assert_equal(online: list[dict[str, float]], offline: pd.DataFrame) -> None:
    assert len(online) == len(offline)
    for expected, (_, found) in zip(online, offline.iterrows(), strict=True):
        assert set(expected) == set(FEATURES)
        for name in FEATURES:
            a, b = expected[name], float(found[name])
            exact = name in COUNTS
            same = (math.isnan(a) and math.isnan(b)) or (a == b if exact else math.isclose(a, b, rel_tol=1e-9))
            assert same, f"{name}: online {a!r}, offline {b!r}, row {dict(found)}"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_online_value_equals_sql_value_at_every_point(data: st.DataObject) -> None:
    world = World()
    epochs = data.draw(st.integers(1, 2))
    for epoch in range(epochs):
        events = data.draw(st.lists(st.one_of(transactions(), labels()), min_size=1, max_size=14))
        # any partition for any event: an entity may move between partitions
        positions = [world.append(e, epoch, data.draw(st.integers(0, PARTITIONS - 1))) for e in events]
        queues: dict[tuple[str, int], list[int]] = {}
        for position in positions:
            topic, _, partition, _, _ = world.log[position]
            queues.setdefault((topic, partition), []).append(position)
        heads = dict.fromkeys(queues, 0)
        while any(heads[q] < len(queues[q]) for q in queues):
            q = data.draw(st.sampled_from([q for q in queues if heads[q] < len(queues[q])]))
            world.deliver(queues[q][heads[q]])
            heads[q] += 1
            if data.draw(st.booleans()):  # a crash: some of what was delivered comes again, in its order
                back = data.draw(st.integers(0, heads[q]))
                for again in queues[q][back : heads[q]]:
                    world.deliver(again)
            if data.draw(st.booleans()):
                newest = max(e.event_timestamp for *_, e in world.log)
                t = data.draw(
                    st.one_of(
                        st.just(newest), moments.map(lambda m: START + m), moments.map(partial(_shortly_after, newest))
                    )
                )
                world.probe(
                    t, data.draw(st.sampled_from(CUSTOMERS)), data.draw(st.sampled_from(TERMINALS)), data.draw(amounts)
                )
    if world.probes:
        assert_equal(world.online, world.offline())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(transactions(), labels()), min_size=1, max_size=20))
def test_training_row_sees_only_what_became_known_before_it(events: list[Transaction | Label]) -> None:
    """In order of arrival, the online rows just before a transaction give what the training set holds for it."""
    world, probes, online = World(), [], []
    events = sorted(events, key=lambda e: e.event_timestamp)  # here an event becomes known when it happens
    for i, event in enumerate(events):
        world.append(event, 0, 0)
        if isinstance(event, Transaction):
            known = [n for n, (*_, e) in enumerate(world.log) if e.event_timestamp < event.event_timestamp]
            fresh = World(log=world.log)
            for position in known:
                fresh.deliver(position)
            fresh.probe(event.event_timestamp, event.customer_id, event.terminal_id, event.amount)
            online += fresh.online
            probes.append(
                {
                    "transaction_id": str(i),
                    "customer_id": event.customer_id,
                    "terminal_id": event.terminal_id,
                    "amount": event.amount,
                    "event_timestamp": event.event_timestamp,
                    "created_timestamp": event.event_timestamp,
                }
            )
    if probes:
        assert_equal(online, query(pd.DataFrame(probes), world.log, "created"))


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
