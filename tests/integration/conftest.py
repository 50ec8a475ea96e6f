"""Brokers for the tests that need one: Tansu, which starts in a tenth of a second, or Apache Kafka, or each in turn.

    BROKERS = ("tansu", "kafka")    # in a module: its tests run on both

Apache Kafka is started at most twice a session: one whose topics a module shares, one whose topics are emptied for a
single test.
"""

from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="session")
def broker_kind(request: pytest.FixtureRequest) -> BrokerKind:
    """Which broker a test runs on: "tansu", unless its module says otherwise."""
    kind: BrokerKind = getattr(request, "param", "tansu")
    return kind


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
def broker(broker_kind: BrokerKind, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings with a running broker and all topics, shared by the whole run: other tests have written to it too."""
    yield from _broker(broker_kind, "shared_kafka", request)


@pytest.fixture(scope="module")
def module_broker(broker_kind: BrokerKind, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings with a broker whose topics only this module writes to."""
    yield from _broker(broker_kind, "shared_kafka", request)


@pytest.fixture
def fresh_broker(broker_kind: BrokerKind, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings with a broker whose topics are empty."""
    yield from _broker(broker_kind, "kafka", request)


def _broker(kind: BrokerKind, fixture: str, request: pytest.FixtureRequest) -> Iterator[Settings]:
    home = request.getfixturevalue("tmp_path_factory").mktemp("home")
    if kind == "kafka":
        yield begin_log_anew(request.getfixturevalue(fixture).settings(home))
        return
    with EmbeddedStack(Settings(home=home)) as stack:
        settings = stack.start_broker()
        create_topics(settings)
        yield settings
