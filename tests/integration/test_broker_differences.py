"""Where Tansu, the embedded broker, answers otherwise than Apache Kafka: the one list of it, asked of both.

A row that fails for Tansu is good news: a deviation is gone, and what the code does without may be used.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource

from whiteboard.fraud.events import ALERTS
from whiteboard.settings import Settings
from whiteboard.topics import RETENTION_BYTES, client_config

BROKERS = ("tansu", "kafka")
AT = TopicPartition(ALERTS, 0)  # a topic of one partition
RECORDS = 10
GROUP = "observed"


class Clients(NamedTuple):
    """One of each kind, connected to the broker that is asked."""

    config: dict[str, Any]
    admin: KafkaAdminClient
    consumer: KafkaConsumer

    def send_one_batch(self) -> None:
        """Ten records in one batch, a second apart, the first at the epoch."""
        producer = KafkaProducer(**self.config, linger_ms=1_000)
        for second in range(RECORDS):
            producer.send(AT.topic, b"x", partition=AT.partition, timestamp_ms=1_000 * second)
        producer.flush()
        producer.close()


@pytest.fixture
def clients(fresh_broker: Settings) -> Iterator[Clients]:
    config = client_config(fresh_broker, "test")
    with KafkaAdminClient(**config) as admin:
        consumer = KafkaConsumer(
            **config,
            group_id=GROUP,
            session_timeout_ms=6_000,
            heartbeat_interval_ms=1_000,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        yield Clients(config, admin, consumer)
        consumer.close()


def end_of_the_log(clients: Clients) -> Any:
    """The offset after the last record. Lag is counted from it."""
    clients.send_one_batch()
    return clients.consumer.end_offsets([AT])[AT]


def first_offset_at_a_time(clients: Clients) -> Any:
    """The offset of the first record that is not older."""
    clients.send_one_batch()
    return clients.consumer.offsets_for_times({AT: 5_000})[AT].offset


def what_is_seen_of_an_aborted_transaction(clients: Clients) -> Any:
    """The values that a consumer reads who asks for committed ones only."""
    producer = KafkaProducer(**clients.config, transactional_id="test")
    producer.init_transactions()
    for value, end in ((b"aborted", producer.abort_transaction), (b"committed", producer.commit_transaction)):
        producer.begin_transaction()
        producer.send(AT.topic, value, partition=AT.partition)
        producer.flush()
        end()
    producer.close()
    consumer = KafkaConsumer(**clients.config, isolation_level="read_committed", auto_offset_reset="earliest")
    consumer.assign([AT])
    values: list[bytes] = []
    while b"committed" not in values:  # it comes last
        values += [record.value for record in consumer.poll(timeout_ms=200).get(AT, [])]
    consumer.close()
    return values


def deleting_records(clients: Clients) -> Any:
    """The first offset that is left when those before 3 are deleted."""
    clients.send_one_batch()
    return clients.admin.delete_records({AT: 3})[AT]["low_watermark"]


def adding_partitions(clients: Clients) -> Any:
    """The error code when a topic of one partition is given a second."""
    return clients.admin.create_partitions({AT.topic: 2}).results[0].error_code


def groups(clients: Clients) -> Any:
    """The groups that are listed while one has a member."""
    _join(clients.consumer)
    return [group["group_id"] for group in clients.admin.list_groups() if group["group_id"] == GROUP]


def members_of_a_group(clients: Clients) -> Any:
    """How many members a group of one is said to have."""
    _join(clients.consumer)
    return len(clients.admin.describe_groups([GROUP])[GROUP]["members"])


def settings_of_a_topic(clients: Clients) -> Any:
    """How many bytes of a topic are kept."""
    found = clients.admin.describe_configs([ConfigResource("topic", AT.topic)])["topic"][AT.topic]
    return found.get("retention.bytes", {}).get("value")


def _join(consumer: KafkaConsumer) -> None:
    consumer.subscribe([AT.topic])
    consumer.partitions_for_topic(AT.topic)  # else it may join before it knows that there are any, and is given none
    while not consumer.assignment():
        consumer.poll(timeout_ms=100)


class Deviation(NamedTuple):
    """What each answers; where it is an exception, it is raised."""

    ask: Callable[[Clients], Any]
    kafka: Any
    tansu: Any
    therefore: str  # what the code makes of it


DEVIATIONS = [
    Deviation(
        end_of_the_log, RECORDS, 1, "it is the base of the last batch, plus 1: `EventConsumer.lag` tells too few"
    ),
    Deviation(first_offset_at_a_time, 5, 0, "nothing is looked up by time"),
    Deviation(
        what_is_seen_of_an_aborted_transaction,
        [b"committed"],
        [b"aborted", b"committed"],
        "exactly once by watermarks and the commit chain, without transactions",
    ),
    Deviation(deleting_records, 3, kafka_errors.KafkaConnectionError, "nothing is deleted from a log but by retention"),
    Deviation(adding_partitions, 0, kafka_errors.IncompatibleBrokerVersion, "partitions are set once, on creation"),
    Deviation(groups, [GROUP], [], "the workers say themselves what they have read"),
    Deviation(members_of_a_group, 1, ValueError, "the same"),
    Deviation(settings_of_a_topic, str(RETENTION_BYTES), None, "it keeps everything until it ends, in memory"),
]


@pytest.mark.parametrize("deviation", DEVIATIONS, ids=lambda deviation: deviation.ask.__name__)
def test_the_brokers_differ_as_listed(deviation: Deviation, clients: Clients, broker_kind: str) -> None:
    expected = getattr(deviation, broker_kind)
    if isinstance(expected, type):
        with pytest.raises(expected):
            deviation.ask(clients)
    else:
        assert deviation.ask(clients) == expected
