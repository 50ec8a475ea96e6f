"""What Apache Kafka says of the topics that `create_topics` made: the settings of the table, applied."""

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource

from tests.integration.kafka.cluster import LocalKafka, begin_log_anew
from whiteboard.settings import Settings
from whiteboard.topics import RETENTION_BYTES, TOPICS, Topic, client_config, create_topics

DAY_MS = 86_400_000


def configs(settings: Settings, *topics: str) -> dict[str, dict[str, str]]:
    with KafkaAdminClient(**client_config(settings, "test")) as admin:
        described = admin.describe_configs([ConfigResource("topic", name) for name in topics])["topic"]
    return {topic: {name: found["value"] for name, found in rows.items()} for topic, rows in described.items()}


@pytest.fixture
def settings(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return begin_log_anew(kafka.settings(tmp_path_factory.mktemp("home")))


def test_every_topic_is_kept_by_size_and_not_by_age(settings: Settings) -> None:
    expected = {"retention.ms": "-1", "retention.bytes": str(RETENTION_BYTES), "cleanup.policy": "delete"}
    for topic, found in configs(settings, *TOPICS).items():
        assert expected.items() <= found.items(), topic


def test_a_topic_is_compacted_or_kept_for_a_time_where_the_table_says_so(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = [
        Topic("test.states", "", partitions=1, cleanup_policy="compact"),
        Topic("test.ticks", "", partitions=1, retention_ms=DAY_MS),
    ]
    for topic in table:
        monkeypatch.setitem(TOPICS, topic.name, topic)
    assert create_topics(settings) == ["test.states", "test.ticks"]
    found = configs(settings, "test.states", "test.ticks")
    assert found["test.states"]["cleanup.policy"] == "compact"
    assert (found["test.ticks"]["cleanup.policy"], found["test.ticks"]["retention.ms"]) == ("delete", str(DAY_MS))


def test_topics_that_exist_are_left_as_they_are(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOPICS, "test.kept", Topic("test.kept", "", partitions=1))
    create_topics(settings)
    monkeypatch.setitem(TOPICS, "test.kept", Topic("test.kept", "", partitions=3, retention_ms=DAY_MS))
    assert create_topics(settings) == []
    assert configs(settings, "test.kept")["test.kept"]["retention.ms"] == "-1"
