"""The contract of `whiteboard.eventlog`, on each broker and by each client library."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient

from whiteboard.clients import Done
from whiteboard.deadletters import list_dead_letters, replay_dead_letters
from whiteboard.embedded import EmbeddedStack
from whiteboard.errors import EventError, EventLogUnavailableError
from whiteboard.eventlog import (
    TOPICS,
    EventConsumer,
    EventProducer,
    Positions,
    Record,
    client_config,
    committed,
    create_topics,
    log_ids,
)
from whiteboard.fraud.events import LABELS, SCHEMAS, TRANSACTIONS, Transaction
from whiteboard.settings import Settings

BROKERS = ("tansu", "kafka")
CLIENTS = ("kafka-python", "confluent")
START = datetime(2019, 5, 1, tzinfo=UTC)
START_US = int(START.timestamp()) * 1_000_000
SCHEMA = {"schema": b"fraud.transaction.v1", "trace": b"t"}
WaitUntil = Callable[..., Any]


def payment(number: int, customer: int) -> Transaction:
    return Transaction(
        transaction_id=f"t-{number}",
        event_timestamp=START + timedelta(seconds=number),
        customer_id=f"c-{customer}",
        terminal_id=f"m-{number % 7}",
        amount=number / 4,
    )


def send(settings: Settings, numbers: range, *, customers: int = 20) -> None:
    with EventProducer(settings, "test", SCHEMAS) as producer:
        for number in numbers:
            event = payment(number, number % customers)
            created_us = START_US + number * 1_000_000
            headers = {"source": b"test"}
            producer.send(
                TRANSACTIONS, event, key=event.customer_id, created_us=created_us, trace=f"t{number}", headers=headers
            )
        producer.flush()


def noting(acknowledged: set[str], name: str) -> Done:
    """What adds `name` once its event is acknowledged."""
    return lambda outcome: None if isinstance(outcome, BaseException) else acknowledged.add(name)


@dataclass
class Reader:
    """A consumer and everything that it has read."""

    consumer: EventConsumer
    records: list[Record] = field(default_factory=list)
    positions: Positions = field(default_factory=dict)
    dead: int = 0

    def read(self, count: int, timeout_s: float = 120.0) -> None:
        """Reads on until `count` records, dead letters included, have been read in all."""
        deadline = time.monotonic() + timeout_s
        while len(self.records) + self.dead < count:
            assert time.monotonic() < deadline, f"{len(self.records)} records and {self.dead} dead letters of {count}"
            batch = self.consumer.poll(timeout_s=0.2)
            self.records += batch.records
            self.positions |= batch.positions
            self.dead += sum(batch.dead.values())


@pytest.fixture(scope="module")
def log(module_broker: Settings) -> Settings:
    """A log of 300 payments, a third under each compression, and among them six records that cannot be decoded."""
    for part, compression in enumerate(("none", "gzip", "lz4")):
        compressed = module_broker.model_copy(update={"kafka_compression": compression})
        send(compressed, range(100 * part, 100 * (part + 1)))
    good = (
        b'{"transaction_id":"t-x","event_timestamp":"2019-05-01T00:00:00Z",'
        b'"customer_id":"c-1","terminal_id":"m","amount":1}'
    )
    with EventProducer(module_broker, "test", SCHEMAS) as producer:
        producer.send_raw(TRANSACTIONS, "c-1", b"\x00 no JSON", SCHEMA, created_us=START_US)
        producer.send_raw(TRANSACTIONS, "c-1", good, {"trace": b"t"})
        producer.send_raw(TRANSACTIONS, "c-2", good, SCHEMA)
        producer.send_raw(TRANSACTIONS, "c-1", None, SCHEMA)
        producer.send_raw(TRANSACTIONS, "c-1", good, {"schema": b"fraud.label.v1"})
        producer.send_raw(TRANSACTIONS, "c-1", good.replace(b'"amount":1', b'"amount":"1"'), {**SCHEMA, "source": b"s"})
        producer.flush()
    return module_broker


@pytest.fixture(scope="module")
def reader(log: Settings) -> Iterator[Reader]:
    with EventConsumer(log, [TRANSACTIONS], "module-reader", SCHEMAS) as consumer:
        reader = Reader(consumer)
        reader.read(306)
        yield reader


def test_every_event_arrives_once_with_its_key_headers_and_time(reader: Reader) -> None:
    by_id = {record.event.transaction_id: record for record in reader.records[:300]}
    assert len(by_id) == 300
    for number in range(300):
        record = by_id[f"t-{number}"]
        assert record.event == payment(number, number % 20)
        assert (record.key, record.schema) == (f"c-{number % 20}", "fraud.transaction.v1")
        assert record.trace == f"t{number}"
        assert record.headers["source"] == b"test"
        assert record.created_us == START_US + number * 1_000_000


def test_the_events_of_a_key_lie_in_one_partition_in_the_order_in_which_they_were_sent(reader: Reader) -> None:
    partitions = {record.partition for record in reader.records}
    assert partitions == set(range(4))
    for customer in range(20):
        own = [record for record in reader.records[:300] if record.key == f"c-{customer}"]
        assert len({record.partition for record in own}) == 1
        ids = [int(record.event.transaction_id[2:]) for record in sorted(own, key=lambda r: r.offset)]
        assert ids == sorted(ids)


def test_dead_letters_name_reason_and_origin_and_positions_cover_them(log: Settings, reader: Reader) -> None:
    letters = list_dead_letters(log, "fraud")[:6]
    reasons = [letter.reason for letter in letters]
    expected = ("malformed", "no schema header", "not the event's customer_id", "no value", "fraud.label.v1", "`str`")
    for part in expected:
        assert sum(part in reason for reason in reasons) == 1, (part, reasons)
    valid = {(record.topic, record.partition, record.offset) for record in reader.records}
    buried = {letter.origin for letter in letters}
    assert not buried & valid
    for (topic, partition), position in reader.positions.items():
        covered = {offset for t, p, offset in valid | buried if (t, p) == (topic, partition)}
        assert covered == set(range(position))
    first = next(letter for letter in letters if "malformed" in letter.reason)
    assert (first.key, first.value, first.headers) == (b"c-1", b"\x00 no JSON", SCHEMA)
    assert first.timestamp_ms == START_US // 1000
    assert not any(letter.replayed for letter in letters)
    assert list_dead_letters(log, "fraud", limit=2) == letters[-2:]


def test_a_replay_sends_the_original_bytes_to_their_topic_once_each(log: Settings, reader: Reader) -> None:
    before = {letter.origin: letter for letter in list_dead_letters(log, "fraud")}
    assert replay_dead_letters(log, "fraud") == 6
    assert replay_dead_letters(log, "fraud") == 0
    reader.read(312)  # still bad: buried again, from where they lie now
    again = [letter for letter in list_dead_letters(log, "fraud") if letter.origin not in before]
    assert sorted((x.key, x.value, x.reason, sorted(x.headers.items())) for x in again) == sorted(
        (x.key, x.value, x.reason, sorted(x.headers.items())) for x in before.values()
    )
    assert [letter.replayed for letter in list_dead_letters(log, "fraud")] == [True] * 6 + [False] * 6


def test_a_record_buried_twice_is_replayed_once(log: Settings, reader: Reader) -> None:
    for topic, partition in reader.consumer.assignment():  # as after a crash before the commit
        reader.consumer.seek(topic, partition, 0)
    reader.read(312 + 312)
    assert len(list_dead_letters(log, "fraud")) == 24
    assert replay_dead_letters(log, "fraud") == 6
    reader.read(312 + 312 + 6)


def test_records_are_read_again_when_their_dead_letters_could_not_be_written(
    log: Settings, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = reader.dead + len(reader.records)

    def refuse(*_: object) -> None:
        raise EventLogUnavailableError("down")

    with EventProducer(log, "test", SCHEMAS) as producer:
        producer.send_raw(TRANSACTIONS, "c-1", b"bad", SCHEMA)
        event = payment(7777, 1)
        producer.send(TRANSACTIONS, event, key=event.customer_id)
    with monkeypatch.context() as patch:
        patch.setattr(EventProducer, "flush", refuse)
        with pytest.raises(EventLogUnavailableError):
            reader.read(at + 2)
    reader.read(at + 2)
    assert reader.records[-1].event == event


def test_a_replay_that_fails_half_way_goes_on_where_it_stopped(
    fresh_broker: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = {"reason": b"x", "topic": TRANSACTIONS.encode(), "partition": b"0"}
    with EventProducer(fresh_broker, "test", {}) as producer:
        for offset in range(5):
            headers = {**origin, "offset": str(offset).encode()}
            producer.send_raw("fraud.dead-letters", "c-1", b"bad", headers)
    flushes = iter([True, False])
    flush = EventProducer.flush

    def fail_the_second_time(producer: EventProducer, timeout_s: float = 30.0) -> None:
        flush(producer, timeout_s)
        if not next(flushes, True):
            raise EventLogUnavailableError("down")

    monkeypatch.setattr("whiteboard.deadletters._SEND_TOGETHER", 2)
    monkeypatch.setattr(EventProducer, "flush", fail_the_second_time)
    with pytest.raises(EventLogUnavailableError):
        replay_dead_letters(fresh_broker, "fraud")
    assert [letter.replayed for letter in list_dead_letters(fresh_broker, "fraud")] == [True] * 2 + [False] * 3
    assert replay_dead_letters(fresh_broker, "fraud") == 3


def test_a_group_reads_on_where_it_committed(fresh_broker: Settings) -> None:
    send(fresh_broker, range(50))
    assert committed(fresh_broker, "resuming") == {}
    with EventConsumer(fresh_broker, [TRANSACTIONS], "resuming", SCHEMAS) as consumer:
        first = Reader(consumer)
        first.read(50)
        assert consumer.commit(first.positions)
    assert committed(fresh_broker, "resuming") == first.positions
    send(fresh_broker, range(50, 60))
    with EventConsumer(fresh_broker, [TRANSACTIONS], "resuming", SCHEMAS) as consumer:
        second = Reader(consumer)
        second.read(10)
    assert {record.event.transaction_id for record in second.records} == {f"t-{n}" for n in range(50, 60)}


def test_lag_is_what_was_not_yet_returned_by_partition(fresh_broker: Settings, broker_kind: str) -> None:
    batches = (range(20), range(20, 40), range(40, 60))
    send(fresh_broker, batches[0])
    with EventConsumer(fresh_broker, [TRANSACTIONS], "lagging", SCHEMAS) as consumer:
        assert consumer.lag() == {}, "nothing is assigned before the first poll"
        reader = Reader(consumer)
        reader.read(20)
        assert consumer.lag() == {at: 0 for at in consumer.assignment()}
        assert len(consumer.assignment()) == 4
        for batch in batches[1:]:
            send(fresh_broker, batch)
        before = consumer.lag()
        some = consumer.poll(timeout_s=5, max_records=7)
        after = consumer.lag()
        reader.records += some.records
        reader.read(60)
        unread = Counter((record.topic, record.partition) for record in reader.records[20:])
        returned = Counter((record.topic, record.partition) for record in some.records)
        if broker_kind == "kafka":
            assert before == unread
            assert after == {at: unread[at] - returned[at] for at in unread}
        else:  # see test_broker_differences.py
            assert all(0 <= before[at] <= unread[at] for at in unread)
        assert consumer.lag() == {at: 0 for at in consumer.assignment()}


@contextmanager
def reading(reader: Reader) -> Iterator[None]:
    """Polls in a thread of its own: members of a group that take turns in one thread would keep each other waiting."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.is_set():
            batch = reader.consumer.poll(timeout_s=0.05)
            reader.records += batch.records
            reader.positions |= batch.positions

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_batch_that_was_overtaken_is_read_all_the_same(
    fresh_broker: Settings, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded broker may hand out a batch before an earlier one of another producer is there."""
    monkeypatch.setattr("whiteboard.consumer.GAP_S", 60.0)
    send(fresh_broker, range(200))
    with EventConsumer(fresh_broker, [TRANSACTIONS], "overtaken", SCHEMAS) as consumer:
        real, hidden = consumer._client.poll, set(range(3, 7))

        def poll(timeout_s: float, max_records: int) -> dict[tuple[str, int], list[Any]]:
            polled = real(timeout_s, max_records)
            kept = {at: [raw for raw in raws if raw.offset not in hidden] for at, raws in polled.items()}
            return {at: raws for at, raws in kept.items() if raws}

        monkeypatch.setattr(consumer._client, "poll", poll)
        reader = Reader(consumer)
        reader.read(4 * 3)
        wait_until(lambda: not consumer.poll(timeout_s=0.2).records and len(consumer._gaps) == 4)
        assert all(record.offset < 3 for record in reader.records)
        hidden.clear()
        reader.read(200)
        for partition in range(4):
            offsets = [record.offset for record in reader.records if record.partition == partition]
            assert offsets == list(range(len(offsets)))


def test_offsets_that_stay_away_are_passed_over(
    fresh_broker: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    send(fresh_broker, range(200))
    with EventConsumer(fresh_broker, [TRANSACTIONS], "left-out", SCHEMAS) as consumer:
        real = consumer._client.poll

        def poll(timeout_s: float, max_records: int) -> dict[tuple[str, int], list[Any]]:
            return {at: [r for r in raws if r.offset != 3] for at, raws in real(timeout_s, max_records).items()}

        monkeypatch.setattr(consumer._client, "poll", poll)
        reader = Reader(consumer)
        reader.read(196)
        assert not [record for record in reader.records if record.offset == 3]
        assert caplog.text.count("records left out") == 4


def test_partitions_are_handed_over_with_a_last_commit(fresh_broker: Settings, wait_until: WaitUntil) -> None:
    send(fresh_broker, range(40))
    revoked: list[set[tuple[str, int]]] = []

    def hand_over(partitions: set[tuple[str, int]]) -> None:
        revoked.append(partitions)
        consumer.commit(one.positions)

    consumer = EventConsumer(fresh_broker, [TRANSACTIONS], "sharing", SCHEMAS, on_revoked=hand_over)
    one = Reader(consumer)
    one.read(40)
    everything = consumer.assignment()
    with EventConsumer(fresh_broker, [TRANSACTIONS], "sharing", SCHEMAS) as other:
        two = Reader(other)
        with reading(two):
            with reading(one):
                wait_until(
                    lambda: len(consumer.assignment()) == len(other.assignment()) == 2, message="partitions shared"
                )
            assert revoked[0] == everything
            assert consumer.assignment() | other.assignment() == everything
            assert committed(fresh_broker, "sharing") == one.positions
            rest = consumer.assignment()
            consumer.close()
            assert revoked[-1] == rest
    assert len(one.records) == 40
    assert not two.records, "what was committed is not read again"


def test_what_a_callback_raises_is_raised_by_poll(broker: Settings) -> None:
    def fail(_: set[tuple[str, int]]) -> None:
        raise ValueError("the lake is full")

    with (
        EventConsumer(broker, [LABELS], "failing", SCHEMAS, on_assigned=fail) as consumer,
        pytest.raises(ValueError, match="the lake is full"),
    ):
        Reader(consumer).read(1)


def test_topics_are_created_once_with_the_partitions_of_the_table(broker: Settings) -> None:
    assert create_topics(broker) == []
    with KafkaAdminClient(**client_config(broker, "test")) as admin:
        partitions = {t["name"]: len(t["partitions"]) for t in admin.describe_topics(list(TOPICS))}
    assert partitions == {t.name: t.partitions or broker.kafka_partitions for t in TOPICS.values()}


def test_a_topic_made_anew_is_another_log(fresh_broker: Settings, wait_until: WaitUntil) -> None:
    before = log_ids(fresh_broker, [TRANSACTIONS, LABELS])
    assert log_ids(fresh_broker, [TRANSACTIONS, LABELS]) == before
    with KafkaAdminClient(**client_config(fresh_broker, "test")) as admin:
        admin.delete_topics([LABELS])
        wait_until(lambda: LABELS not in admin.list_topics())  # a broker learns of a deletion from its controller
    with pytest.raises(EventLogUnavailableError, match=r"fraud\.labels do not exist"):
        log_ids(fresh_broker, [TRANSACTIONS, LABELS])
    assert create_topics(fresh_broker) == [LABELS]
    after = log_ids(fresh_broker, [TRANSACTIONS, LABELS])
    assert after[TRANSACTIONS] == before[TRANSACTIONS]
    assert after[LABELS] != before[LABELS]


def test_a_producer_counts_and_never_holds_more_events_than_it_may(broker: Settings) -> None:
    with EventProducer(broker, "test", SCHEMAS, linger_ms=20, max_pending=10) as producer:
        for number in range(100):
            producer.send(TRANSACTIONS, payment(number, 1), key="c-1")
            assert producer.sent - producer.acked <= 10
        producer.flush()
        assert (producer.sent, producer.acked, producer.failed) == (100, 100, 0)


def test_who_asks_is_told_where_each_event_lies(fresh_broker: Settings) -> None:
    told: list[Any] = []
    with EventProducer(fresh_broker, "test", SCHEMAS) as producer:
        for number in range(30):
            event = payment(number, number % 5)
            producer.send(TRANSACTIONS, event, key=event.customer_id, done=told.append)
        producer.flush()
        assert (producer.acked, len(told)) == (30, 30)
    with EventConsumer(fresh_broker, [TRANSACTIONS], "places", SCHEMAS) as consumer:
        reader = Reader(consumer)
        reader.read(30)
    lie = sorted((record.partition, record.offset) for record in reader.records)
    assert sorted((written.partition, written.offset) for written in told) == lie


def test_the_clients_put_a_key_into_the_same_partition(broker: Settings) -> None:
    """Else a worker would fold a card's payments while another one has its row, once the setting changes."""
    partitions: dict[str, dict[str, int]] = {client: {} for client in CLIENTS}

    def note(client: str, key: str, outcome: Any) -> None:
        partitions[client][key] = outcome.partition

    for client in CLIENTS:
        with EventProducer(broker.model_copy(update={"kafka_client": client}), "test", SCHEMAS) as producer:
            for key in (f"c-{n}" for n in range(99)):
                done = partial(note, client, key)
                producer.send(LABELS, payment(1, 1), key=key, schema="fraud.transaction.v1", done=done)
    assert partitions["kafka-python"] == partitions["confluent"]
    assert len(partitions["confluent"]) == 99 and set(partitions["confluent"].values()) == set(range(4))


def test_kafka_python_goes_on_with_another_producer_id_when_it_gave_its_own_up(broker: Settings) -> None:
    kafka_python = broker.model_copy(update={"kafka_client": "kafka-python"})
    with EventProducer(kafka_python, "test", SCHEMAS) as producer:
        producer.send(TRANSACTIONS, payment(1, 1), key="c-1")
        producer.flush(10)
        client: Any = producer._client
        client._producer._transaction_manager.reset_producer_id()  # as when an event was not acknowledged in time
        producer.send(TRANSACTIONS, payment(2, 1), key="c-1")
        producer.flush(10)


def test_an_event_that_is_too_large_or_of_no_known_schema_is_refused(broker: Settings) -> None:
    with EventProducer(broker, "test", {}) as producer:
        with pytest.raises(EventError, match="Transaction has no schema here"):
            producer.send(TRANSACTIONS, payment(1, 1), key="c-1")
        with pytest.raises(EventError, match="too large"):
            producer.send_raw(TRANSACTIONS, "c-1", b"x" * 2_000_000, {})


def test_a_broker_that_is_gone_is_an_error_and_not_a_silent_loss(tmp_path: Path, kafka_client: str) -> None:
    with EmbeddedStack(Settings.model_validate({"home": tmp_path, "kafka_client": kafka_client})) as stack:
        settings = stack.start_broker()
        create_topics(settings)
        producer = EventProducer(settings, "test", SCHEMAS)
        producer.send(TRANSACTIONS, payment(1, 1), key="c-1")
        producer.flush()
        stack.process("broker").kill()
        outcomes: list[object] = []
        producer.send(TRANSACTIONS, payment(2, 1), key="c-1", done=outcomes.append)
        with pytest.raises(EventLogUnavailableError):
            producer.flush(timeout_s=0.5)
        producer.close(timeout_s=0.1)
        assert (producer.sent, producer.acked, producer.failed) == (2, 1, 1)
        assert len(outcomes) == 1 and isinstance(outcomes[0], Exception)


def test_where_no_broker_answers_a_client_fails_instead_of_waiting(kafka_client: str) -> None:
    settings = Settings.model_validate({"kafka_bootstrap": "127.0.0.1:9", "kafka_client": kafka_client})
    started = time.monotonic()
    with pytest.raises(EventLogUnavailableError, match=r"127\.0\.0\.1:9"):
        EventProducer(settings, "test", SCHEMAS)
    assert time.monotonic() - started < 60
