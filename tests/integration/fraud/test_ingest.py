import time

import pandas as pd
import pytest
from kafka import KafkaConsumer, TopicPartition

from whiteboard.eventlog import TOPICS, EventProducer, Record, client_config
from whiteboard.fraud.events import LABELS, SCHEMAS, TRANSACTIONS
from whiteboard.fraud.ingest import checked, ingest, labels_of, send_label
from whiteboard.fraud.world import WorldConfig, simulate
from whiteboard.records import RecordDecoder
from whiteboard.settings import Settings


def read_all(settings: Settings, topic: str, count: int) -> list[Record]:
    """All records of a topic, in the order of each partition; without a group, which would take seconds to join."""
    row = TOPICS[topic]
    decode = RecordDecoder(topic, SCHEMAS, row.schemas, row.key).decode
    consumer = KafkaConsumer(**client_config(settings, "test"), fetch_max_wait_ms=50)
    partitions = [TopicPartition(topic, p) for p in range(settings.kafka_partitions)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    records: list[Record] = []
    deadline = time.monotonic() + 60
    while len(records) < count and time.monotonic() < deadline:
        records += [decode(raw) for raws in consumer.poll(timeout_ms=100).values() for raw in raws]
    assert not consumer.poll(timeout_ms=200)
    consumer.close()
    assert len(records) == count
    return records


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    config = WorldConfig(customers=60, terminals=90, days=25, seed=3, late_share=0.1)
    frame = checked(simulate(config).transactions)
    return frame.assign(is_fraud=frame["is_fraud"].mask(frame.index % 10 == 0))


def test_a_file_goes_into_the_log_in_the_order_in_which_it_became_known(
    fresh_broker: Settings, frame: pd.DataFrame
) -> None:
    seen: list[tuple[int, int]] = []
    until = frame["event_timestamp"].min().normalize() + pd.Timedelta(days=20)
    result = ingest(fresh_broker, frame, until=until, progress=lambda done, total: seen.append((done, total)))

    labels = labels_of(frame)
    known = labels[labels["event_timestamp"] < until]
    assert result.transactions == len(frame)
    assert result.labels == len(known) < len(labels)
    assert result.events == result.transactions + result.labels
    assert result.events_per_s > 0
    pd.testing.assert_frame_equal(result.withheld, labels[len(known) :].reset_index(drop=True))
    assert seen[0] == (1_000, result.events)
    assert seen[-1] == (result.events, result.events)

    payments = read_all(fresh_broker, TRANSACTIONS, result.transactions)
    by_id = frame.set_index("transaction_id")
    for record in payments:
        row = by_id.loc[record.event.transaction_id]
        assert record.key == record.event.customer_id == row["customer_id"]
        assert (record.event.terminal_id, record.event.amount) == (row["terminal_id"], row["amount"])
        assert record.event.event_timestamp == row["event_timestamp"]
        assert record.created_us == row["created_timestamp"].value // 1_000_000 * 1_000
    verdicts = read_all(fresh_broker, LABELS, result.labels)
    for record in verdicts:
        row = by_id.loc[record.event.transaction_id]
        assert record.event.is_fraud == row["is_fraud"]
        assert record.event.transaction_timestamp == row["event_timestamp"]
        assert record.event.event_timestamp == row["label_timestamp"] < until
        assert record.created_us == row["label_timestamp"].value // 1_000_000 * 1_000
    for records in (payments, verdicts):
        for partition in range(fresh_broker.kafka_partitions):
            times = [record.created_us for record in records if record.partition == partition]
            assert times == sorted(times)

    with EventProducer(fresh_broker, "test", SCHEMAS) as producer:
        for row in result.withheld.to_dict("records"):
            send_label(producer, {str(name): value for name, value in row.items()})
    assert len(read_all(fresh_broker, LABELS, len(labels))) == len(labels)


def test_payments_and_labels_are_sent_in_one_order(
    fresh_broker: Settings, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[int] = []
    topics: list[str] = []

    def note(_: EventProducer, topic: str, *__: object, created_us: int, **___: object) -> None:
        times.append(created_us)
        topics.append(topic)

    monkeypatch.setattr(EventProducer, "send", note)
    ingest(fresh_broker, frame)
    assert times == sorted(times)
    assert topics.count(TRANSACTIONS) == len(frame)
    assert topics[: len(frame)].count(LABELS) > 100


def test_labels_of_the_future_are_withheld_although_no_limit_is_given(
    fresh_broker: Settings, frame: pd.DataFrame
) -> None:
    now = pd.Timestamp.now("UTC").floor("us")
    recent = frame.head(10).assign(
        is_fraud=False,
        event_timestamp=now - pd.Timedelta(days=1),
        created_timestamp=now - pd.Timedelta(days=1),
        label_timestamp=[now - pd.Timedelta(hours=1)] * 4 + [now + pd.Timedelta(days=6)] * 6,
    )
    result = ingest(fresh_broker, recent)
    assert (result.transactions, result.labels, len(result.withheld)) == (10, 4, 6)


def test_a_file_without_rows_sends_nothing(broker: Settings, frame: pd.DataFrame) -> None:
    result = ingest(broker, frame.head(0))
    assert (result.events, len(result.withheld)) == (0, 0)
