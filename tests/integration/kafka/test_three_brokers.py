"""Three brokers, every event on all of them: one may be lost. Without two nothing is acknowledged, and nothing lost."""

from collections.abc import Iterator

import pytest
from kafka import KafkaAdminClient

from tests.conftest import PATIENCE_S
from tests.integration.kafka.cluster import LocalKafka
from tests.integration.kafka.test_topics import configs
from tests.integration.test_eventlog import Reader, noting, payment
from whiteboard.errors import EventLogUnavailableError
from whiteboard.eventlog import EventConsumer, EventProducer, client_config, committed, create_topics
from whiteboard.fraud.events import SCHEMAS, TRANSACTIONS
from whiteboard.settings import Settings
from whiteboard.topics import TOPICS


@pytest.fixture(scope="module")
def three(kafka_jars: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with LocalKafka(tmp_path_factory.mktemp("kafka"), brokers=3) as three:
        yield three


@pytest.fixture(scope="module")
def settings(three: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = three.settings(tmp_path_factory.mktemp("home"))
    create_topics(settings)
    return settings


def test_topics_are_on_three_brokers_and_two_must_acknowledge(settings: Settings) -> None:
    assert {found["min.insync.replicas"] for found in configs(settings, *TOPICS).values()} == {"2"}
    with KafkaAdminClient(**client_config(settings, "test")) as admin:
        topics = admin.describe_topics(list(TOPICS))
    assert {len(p["replica_nodes"]) for topic in topics for p in topic["partitions"]} == {3}


def test_one_broker_may_be_lost_and_without_two_nothing_is_acknowledged(three: LocalKafka, settings: Settings) -> None:
    acknowledged: set[str] = set()

    def send(producer: EventProducer, numbers: range) -> None:
        for number in numbers:
            event = payment(number, number % 20)
            done = noting(acknowledged, event.transaction_id)
            producer.send(TRANSACTIONS, event, key=event.customer_id, done=done)

    with (
        EventConsumer(settings, [TRANSACTIONS], "test", SCHEMAS) as consumer,
        EventProducer(settings, "test", SCHEMAS, delivery_timeout_s=PATIENCE_S) as producer,
    ):
        reader = Reader(consumer)
        send(producer, range(100))
        producer.flush()
        reader.read(50)

        three.kill(node=2)
        send(producer, range(100, 200))
        producer.flush()
        reader.read(200)
        assert consumer.commit(reader.positions)
        assert committed(settings, "test") == reader.positions
        assert len(acknowledged) == 200

        three.kill(node=3)
        send(producer, range(200, 300))
        with pytest.raises(EventLogUnavailableError, match="100 events were not acknowledged within 2 s"):
            producer.flush(timeout_s=2)
        assert len(acknowledged) == 200

        three.start()
        producer.flush(PATIENCE_S)
        reader.read(300)
    assert sorted(record.event.transaction_id for record in reader.records) == sorted(acknowledged)
    assert len(acknowledged) == 300
