"""The stream worker on each broker: killed, paused and restarted, nothing is lost and nothing is doubled."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import pandas as pd
import pytest
from prometheus_client import REGISTRY

from services.stream.worker import SYSTEMS, StreamWorker
from tests.conftest import PATIENCE_S
from tests.integration.kafka.cluster import LocalKafka, begin_log_anew
from whiteboard.deadletters import list_dead_letters
from whiteboard.embedded import EmbeddedStack
from whiteboard.eventlog import EventProducer, create_topics, log_ids
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.events import LABELS, SCHEMAS, TRANSACTIONS, Label, Transaction
from whiteboard.fraud.features import CUSTOMER_FOLD, TERMINAL_FOLD
from whiteboard.fraud.ingest import labels_of, send_label, send_transaction
from whiteboard.fraud.world import WorldConfig, malformed_payloads, simulate
from whiteboard.lake import Lake, connect
from whiteboard.processes import wait_until
from whiteboard.settings import Settings
from whiteboard.windows import EntityFold, Row

BROKERS = ("tansu", "kafka")
SLICES = 12
KILLS = {2, 5, 6, 9}
MALFORMED = 14


NewLog = Callable[[], str]


@pytest.fixture
def new_log(broker_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> NewLog:
    """`new_log()` is the address of an Apache Kafka with empty topics; "" leaves it to the stack to start a Tansu."""
    if broker_kind == "tansu":
        return lambda: ""
    kafka: LocalKafka = request.getfixturevalue("kafka")
    return lambda: begin_log_anew(kafka.settings(tmp_path)).kafka_bootstrap


@pytest.fixture
def stack(tmp_path: Path, new_log: NewLog) -> Iterator[EmbeddedStack]:
    with EmbeddedStack(Settings(home=tmp_path, kafka_bootstrap=new_log())) as stack:
        stack.start_broker()
        create_topics(stack.connected)
        FeatureStore.apply(stack.connected)
        yield stack


def events_of(world: pd.DataFrame) -> list[tuple[str, dict[str, object]]]:
    """Transactions and labels in the order in which they become known."""
    rows = [(r["created_timestamp"], TRANSACTIONS, r) for r in world.to_dict("records")]
    rows += [(r["event_timestamp"], LABELS, r) for r in labels_of(world).to_dict("records")]
    ordered = sorted(rows, key=lambda row: row[0])
    return [(topic, {str(name): value for name, value in row.items()}) for _, topic, row in ordered]


def send(producer: EventProducer, events: list[tuple[str, dict[str, object]]]) -> None:
    for topic, row in events:
        (send_transaction if topic == TRANSACTIONS else send_label)(producer, row)
    producer.flush()


def expected_rows(lake: Lake, fold: EntityFold, key: str, topics: dict[str, type]) -> dict[str, Row]:
    """What one undisturbed worker would have made of the log, event by event."""
    rows: dict[str, Row] = {}
    for topic, kind in topics.items():
        for event, epoch, partition, offset in lake.events(topic, kind):
            row = rows.setdefault(getattr(event, key), Row({}, 0, {}, {}))
            assert fold.fold(row, event, topic, epoch, partition, offset)
    return rows


def content(row: Row) -> tuple[object, ...]:
    """A row without what only says where the log's re-keyed copy lies."""
    watermark = {t: mark for t, mark in row.watermark.items() if t in (TRANSACTIONS, LABELS)}
    return watermark, row.newest, row.newest_by_stream, row.tiles


def test_killed_and_paused_workers_lose_and_double_nothing(
    stack: EmbeddedStack, client_of: Callable[[int], dict[str, str]]
) -> None:
    settings, rng = stack.connected, Random(5)
    world = simulate(WorldConfig(customers=60, terminals=120, days=30, seed=3, late_share=0.1)).transactions
    events = events_of(world)
    for number in (1, 2):
        stack.start(f"stream-{number}", "services.stream.worker", "--metrics-port", "0", env=client_of(number))
    broken = malformed_payloads(MALFORMED, 1)
    lake, store = Lake(settings.lake_dir), FeatureStore(settings)
    size = -(-len(events) // SLICES)
    with EventProducer(settings, "test", SCHEMAS) as producer:
        for number in range(SLICES):
            send(producer, events[number * size : (number + 1) * size])
            for _, payload in broken[number::SLICES]:
                producer.send_raw(TRANSACTIONS, "c-1", payload, {"schema": b"fraud.transaction.v1", "trace": b""})
            producer.flush()
            victim = stack.process(f"stream-{rng.choice((1, 2))}")
            if number in KILLS:
                victim.kill()
                victim.restart()
            elif number == SLICES - 2:  # overtaken: the other one takes over while this one sleeps with full buffers
                os.kill(victim.pid, signal.SIGSTOP)

        def covered(topic: str, count: int) -> bool:
            stack.check()
            return sum(lake.coverage(topic).values()) == count

        labels = len(events) - len(world)
        wait_until(
            lambda: covered(TRANSACTIONS, len(world) + MALFORMED), "all transactions are in the lake", PATIENCE_S
        )
        os.kill(victim.pid, signal.SIGCONT)
        for number in (1, 2):
            os.kill(stack.process(f"stream-{number}").pid, signal.SIGCONT)
        wait_until(lambda: covered(LABELS, labels), "all labels are in the lake", PATIENCE_S)

    with connect() as connection:
        for topic, kind, ids in ((TRANSACTIONS, Transaction, world), (LABELS, Label, labels_of(world))):
            found = connection.sql(f"SELECT transaction_id FROM {lake.relation(topic, kind)}").df()["transaction_id"]
            assert Counter(found) == Counter(ids["transaction_id"]), topic
    assert len(list_dead_letters(settings, "fraud")) >= MALFORMED, "each is buried, once more if its worker was killed"
    buried = {(letter.partition, letter.offset) for letter in list_dead_letters(settings, "fraud")}
    assert len(buried) == MALFORMED

    customers = expected_rows(lake, CUSTOMER_FOLD, "customer_id", {TRANSACTIONS: Transaction})
    terminals = expected_rows(lake, TERMINAL_FOLD, "terminal_id", {TRANSACTIONS: Transaction, LABELS: Label})
    for view, fold, expected in (
        ("fraud_customer", CUSTOMER_FOLD, customers),
        ("fraud_terminal", TERMINAL_FOLD, terminals),
    ):

        def equal() -> bool:
            stored = store.states(view).read(list(expected))  # noqa: B023
            rows = zip(expected.values(), stored, strict=True)  # noqa: B023
            return all(content(row) == content(fold.decode(state)) for row, state in rows)  # noqa: B023

        wait_until(equal, f"every row of {view} equals that of an undisturbed run", PATIENCE_S)


LOST_AT = pd.Timestamp("2026-01-05T12:00:00Z")


def rows_and_lake(store: FeatureStore, lake: Lake) -> tuple[float, float, int]:
    """How many payments the rows of c-1 and m-1 hold, and the lake."""
    t = int((LOST_AT + pd.Timedelta(minutes=10)).timestamp()) * 1_000_000
    customer, terminal = (
        store.states("fraud_customer").read(["c-1"])[0],
        store.states("fraud_terminal").read(["m-1"])[0],
    )
    return (
        CUSTOMER_FOLD.values(CUSTOMER_FOLD.decode(customer), t)["customer_count_1d"],
        TERMINAL_FOLD.values(TERMINAL_FOLD.decode(terminal), t)["terminal_count_1d"],
        sum(lake.coverage(TRANSACTIONS).values()),
    )


def test_a_worker_tells_no_lag_of_what_it_has_handed_over(stack: EmbeddedStack) -> None:
    def told(partition: int) -> float | None:
        labels = {"topic": TRANSACTIONS, "partition": str(partition)}
        return REGISTRY.get_sample_value("whiteboard_stream_lag", labels)

    worker = StreamWorker(stack.connected, SYSTEMS["fraud"])
    try:
        while not worker._owned:
            worker._consumer.poll(timeout_s=1)
        worker._measure_lag()
        assert told(0) == told(1) == 0
        worker._revoked({(TRANSACTIONS, 0)})  # and the group takes its time: the client still lists it
        assert (TRANSACTIONS, 0) in worker._consumer.assignment()
        worker._measure_lag()
        assert told(0) is None
        assert told(1) == 0
    finally:
        worker.close()


def test_rows_of_a_lost_log_are_rebuilt_from_the_lake_and_new_offsets_count(tmp_path: Path, new_log: NewLog) -> None:
    row = {"customer_id": "c-1", "terminal_id": "m-1", "amount": 10.0, "is_fraud": False}
    made = [
        row | {"transaction_id": f"t-{i}", "event_timestamp": t, "created_timestamp": t}
        for i, t in enumerate(LOST_AT + pd.Timedelta(minutes=i) for i in range(6))
    ]
    ids = []
    for part in (made[:4], made[4:]):  # in between the embedded broker forgets everything, or topics are deleted
        with EmbeddedStack(Settings(home=tmp_path, kafka_bootstrap=new_log())) as stack:
            settings = stack.start_broker()
            create_topics(settings)
            store, lake = FeatureStore.apply(settings), Lake(settings.lake_dir)
            stack.start("stream", "services.stream.worker", "--metrics-port", "0")
            with EventProducer(settings, "test", SCHEMAS) as producer:
                for payment in part:
                    send_transaction(producer, payment)
                producer.flush()
            ids.append(log_ids(settings, [TRANSACTIONS])[TRANSACTIONS])
            count = 4 if len(ids) == 1 else 6

            state = partial(rows_and_lake, store, lake)
            wait_until(lambda: state() == (count, count, count), f"{count} payments are in rows and lake", PATIENCE_S)  # noqa: B023
    assert ids[0] != ids[1]
