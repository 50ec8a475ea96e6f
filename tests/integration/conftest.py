"""Brokers for the tests that need one: Tansu, which starts in a tenth of a second, or Apache Kafka, or each in turn.

    BROKERS = ("tansu", "kafka")                # in a module: its tests run on both
    CLIENTS = ("kafka-python", "confluent")     # its tests run by both client libraries

Apache Kafka is started at most twice a session: one whose topics a module shares, one whose topics are emptied for a
single test.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Literal, NoReturn

import pytest

from tests.integration.kafka.cluster import LocalKafka, LocalKafkaError, begin_log_anew, local_kafka
from whiteboard.embedded import EmbeddedStack
from whiteboard.eventlog import create_topics
from whiteboard.settings import Settings

BrokerKind = Literal["tansu", "kafka"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "broker_kind" in metafunc.fixturenames and hasattr(metafunc.module, "BROKERS"):
        metafunc.parametrize("broker_kind", metafunc.module.BROKERS, indirect=True, scope="session")
    if "kafka_client" in metafunc.fixturenames and hasattr(metafunc.module, "CLIENTS"):
        metafunc.parametrize("kafka_client", metafunc.module.CLIENTS, indirect=True, scope="session")


@pytest.fixture(scope="session")
def broker_kind(request: pytest.FixtureRequest) -> BrokerKind:
    """Which broker a test runs on: "tansu", unless its module says otherwise."""
    kind: BrokerKind = getattr(request, "param", "tansu")
    return kind


@pytest.fixture(scope="session")
def kafka_client(request: pytest.FixtureRequest, missing: Callable[[str], NoReturn]) -> str:
    """By which client library a test reads and writes: kafka-python, unless its module says otherwise."""
    client: str = getattr(request, "param", "kafka-python")
    if client == "confluent" and find_spec("confluent_kafka") is None:
        missing("confluent-kafka: `make .venv/.synced-all`")
    return client


@pytest.fixture
def client_of(missing: Callable[[str], NoReturn]) -> Callable[[int], dict[str, str]]:
    """The environment of worker 1, 2, …: one by librdkafka, the next by kafka-python, together in one group."""
    if find_spec("confluent_kafka") is None:
        missing("confluent-kafka: `make .venv/.synced-all`")
    return lambda number: {"WHITEBOARD_KAFKA_CLIENT": ("kafka-python", "confluent")[number % 2]}


@pytest.fixture(scope="session")
def kafka_jars(missing: Callable[[str], NoReturn]) -> None:
    """Skips, or fails in CI, where Apache Kafka cannot be run."""
    try:
        local_kafka("fetch")
    except LocalKafkaError as error:
        missing(f"Apache Kafka: {error}")


@pytest.fixture(scope="session")
def shared_kafka(kafka_jars: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """An Apache Kafka whose topics are emptied for a module."""
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


@pytest.fixture(scope="session")
def kafka(kafka_jars: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """An Apache Kafka whose topics are emptied for a test; one that kills it starts it again."""
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


@pytest.fixture(scope="session")
def broker(broker_kind: BrokerKind, kafka_client: str, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings with a running broker and all topics, shared by the whole run: other tests have written to it too."""
    yield from _broker(broker_kind, kafka_client, "shared_kafka", request)


@pytest.fixture(scope="module")
def module_broker(broker_kind: BrokerKind, kafka_client: str, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings with a broker whose topics only this module writes to."""
    yield from _broker(broker_kind, kafka_client, "shared_kafka", request)


@pytest.fixture
def fresh_broker(broker_kind: BrokerKind, kafka_client: str, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings with a broker whose topics are empty."""
    yield from _broker(broker_kind, kafka_client, "kafka", request)


def _broker(kind: BrokerKind, client: str, fixture: str, request: pytest.FixtureRequest) -> Iterator[Settings]:
    home = request.getfixturevalue("tmp_path_factory").mktemp("home")
    if kind == "kafka":
        yield begin_log_anew(request.getfixturevalue(fixture).settings(home, kafka_client=client))
        return
    with EmbeddedStack(Settings.model_validate({"home": home, "kafka_client": client})) as stack:
        settings = stack.start_broker()
        create_topics(settings)
        yield settings
