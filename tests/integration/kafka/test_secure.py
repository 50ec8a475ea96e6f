"""A listener with TLS and SCRAM, used by settings alone."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.kafka.cluster import LocalKafka
from tests.integration.test_eventlog import Reader, payment
from whiteboard.errors import EventLogUnavailableError, SettingsError
from whiteboard.eventlog import EventConsumer, EventProducer, create_topics, topic_names
from whiteboard.fraud.events import SCHEMAS, TRANSACTIONS
from whiteboard.settings import Settings

CLIENTS = ("kafka-python", "confluent")


@pytest.fixture(scope="module")
def kafka_settings(kafka_jars: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with LocalKafka(tmp_path_factory.mktemp("kafka"), "--secure") as kafka:
        settings = kafka.settings(tmp_path_factory.mktemp("home"))
        create_topics(settings)
        yield settings


@pytest.fixture
def secure(kafka_settings: Settings, kafka_client: str) -> Settings:
    return kafka_settings.model_copy(update={"kafka_client": kafka_client})


def test_events_are_written_and_read_over_tls_by_a_user_with_a_password(secure: Settings, kafka_client: str) -> None:
    assert (secure.kafka_security_protocol, secure.kafka_sasl_mechanism) == ("SASL_SSL", "SCRAM-SHA-512")
    event = payment(CLIENTS.index(kafka_client), 1)
    with EventProducer(secure, "test", SCHEMAS) as producer:
        producer.send(TRANSACTIONS, event, key=event.customer_id)
    with EventConsumer(secure, [TRANSACTIONS], "test", SCHEMAS) as consumer:
        reader = Reader(consumer)
        while event not in [record.event for record in reader.records]:  # those of another client may come first
            reader.read(len(reader.records) + 1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"kafka_sasl_password": "wrong"},
            "does not let user 'whiteboard' in by SCRAM-SHA-512; check WHITEBOARD_KAFKA",
        ),
        ({"kafka_sasl_username": "nobody"}, "does not let user 'nobody' in"),
        ({"kafka_sasl_mechanism": "PLAIN"}, "does not let user 'whiteboard' in by PLAIN"),
        ({"kafka_ssl_cafile": None}, "certificate verify failed.*WHITEBOARD_KAFKA_SSL_CAFILE"),
    ],
)
def test_who_is_not_let_in_is_told_why_and_leaves_nothing_behind(
    secure: Settings, changes: dict[str, str], says: str
) -> None:
    settings = Settings.model_validate(secure.model_dump() | changes)
    threads = set(threading.enumerate())
    with pytest.raises(EventLogUnavailableError, match=says):
        topic_names(settings)
    with pytest.raises(EventLogUnavailableError, match=says):
        EventProducer(settings, "test", SCHEMAS)
    with pytest.raises(EventLogUnavailableError, match=says):
        EventConsumer(settings, [TRANSACTIONS], "test", SCHEMAS)
    assert set(threading.enumerate()) <= threads


def test_sasl_without_credentials_is_refused_before_any_broker_is_asked(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="WHITEBOARD_KAFKA_SASL_USERNAME"):
        topic_names(Settings(home=tmp_path, kafka_bootstrap="127.0.0.1:9", kafka_security_protocol="SASL_SSL"))
