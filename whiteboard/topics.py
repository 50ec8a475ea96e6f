"""The topics of the event log: the one table that declares them, and the administration of a cluster by it.

    fraud.transactions  key customer_id  4 partitions  kept by size  accepts fraud.transaction.v1

Also what every client needs to connect: addresses, TLS and SASL from the settings, and errors of our own kind.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors

from whiteboard.errors import EventLogUnavailableError, SettingsError
from whiteboard.kafkaclient import CREDENTIALS_REFUSED, TellingClient
from whiteboard.settings import Settings

Position = tuple[str, int]  # (topic, partition)
Positions = dict[Position, int]  # next offset by (topic, partition)

KEEP = -1
# Records carry the time when their event became known; ingested history is years old on arrival, so retention by age
# would delete it at once. The log is bounded by size instead, and the lake is the archive.
RETENTION_BYTES = 4 * 1024**3
ANSWER_TIMEOUT_MS = 10_000
# Of three replicas two must have an event before it is acknowledged: one broker may be lost, and nothing with it.
REPLICAS_TO_LOSE_ONE, IN_SYNC = 3, 2


@dataclass(frozen=True)
class Topic:
    """A row of the topic table. `key` is the field of its events that names the entity, and the partition by it."""

    name: str
    key: str
    schemas: tuple[str, ...] = ()  # what may be written to it; empty: anything
    partitions: int | None = None  # None: as many as the settings say
    retention_ms: int = KEEP
    cleanup_policy: str = "delete"
    origins: tuple[str, ...] = ()  # of a re-keyed topic, by schema: the topic whose events it holds once more


_TRANSACTION, _LABEL = "fraud.transaction.v1", "fraud.label.v1"
_INTERACTION = "recommendation.interaction.v1"
TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic("fraud.transactions", "customer_id", (_TRANSACTION,)),
        Topic(
            "fraud.transactions-by-terminal",
            "terminal_id",
            (_TRANSACTION, _LABEL),
            origins=("fraud.transactions", "fraud.labels"),
        ),
        Topic("fraud.decisions", "customer_id", ("fraud.decision.v1",)),
        Topic("fraud.labels", "customer_id", (_LABEL,)),
        Topic("fraud.alerts", "kind", ("fraud.alert.v1",), partitions=1),
        Topic("fraud.dead-letters", "", partitions=1),  # one partition: they are few, and replayed in order
        Topic("recommendation.items", "item_id", ("recommendation.item.v1",)),
        Topic("recommendation.interactions", "user_id", (_INTERACTION,)),
        Topic(
            "recommendation.interactions-by-item", "item_id", (_INTERACTION,), origins=("recommendation.interactions",)
        ),
        Topic("recommendation.impressions", "user_id", ("recommendation.impression.v1",)),
        Topic("recommendation.exposures", "unit_id", ("recommendation.exposure.v1",)),
        Topic("recommendation.alerts", "kind", ("recommendation.alert.v1",), partitions=1),
        Topic("recommendation.dead-letters", "", partitions=1),
    )
}


def dead_letter_topic(topic: str) -> str:
    """`fraud.transactions` → `fraud.dead-letters`."""
    return f"{topic.partition('.')[0]}.dead-letters"


def client_config(settings: Settings, client_id: str) -> dict[str, Any]:
    """What every kafka-python client is given: where the brokers are and how to be let in."""
    if not settings.kafka_bootstrap:
        raise SettingsError("kafka_bootstrap is empty: set WHITEBOARD_KAFKA_BOOTSTRAP, or start the embedded broker")
    sasl = (settings.kafka_sasl_mechanism, settings.kafka_sasl_username, settings.kafka_sasl_password)
    if settings.kafka_security_protocol.startswith("SASL") and None in sasl:
        raise SettingsError(
            f"kafka_security_protocol is {settings.kafka_security_protocol}, which also needs "
            "WHITEBOARD_KAFKA_SASL_MECHANISM, WHITEBOARD_KAFKA_SASL_USERNAME and WHITEBOARD_KAFKA_SASL_PASSWORD"
        )
    password = settings.kafka_sasl_password
    optional = {
        "sasl_mechanism": settings.kafka_sasl_mechanism,
        "sasl_plain_username": settings.kafka_sasl_username,
        "sasl_plain_password": password.get_secret_value() if password else None,
        "ssl_cafile": settings.kafka_ssl_cafile and str(settings.kafka_ssl_cafile),
        "ssl_certfile": settings.kafka_ssl_certfile and str(settings.kafka_ssl_certfile),
        "ssl_keyfile": settings.kafka_ssl_keyfile and str(settings.kafka_ssl_keyfile),
    }
    return {
        "bootstrap_servers": settings.kafka_bootstrap.split(","),
        "client_id": client_id,
        "kafka_client": TellingClient,
        "security_protocol": settings.kafka_security_protocol,
        "ssl_check_hostname": settings.kafka_ssl_check_hostname,
        "bootstrap_timeout_ms": 5_000,
        "request_timeout_ms": ANSWER_TIMEOUT_MS,
        **{name: value for name, value in optional.items() if value is not None},
    }


@contextmanager
def reaching(settings: Settings) -> Iterator[None]:
    """Turns the client library's errors into EventLogUnavailableError, naming the brokers that were asked."""
    try:
        yield
    except kafka_errors.KafkaError as error:
        raise unavailable(settings, error) from error


def unavailable(settings: Settings, error: kafka_errors.KafkaError) -> EventLogUnavailableError:
    """What the client library's error means to who uses us."""
    where = settings.kafka_bootstrap
    if isinstance(error, CREDENTIALS_REFUSED):
        user, how = settings.kafka_sasl_username, settings.kafka_sasl_mechanism
        return EventLogUnavailableError(
            f"the event log at {where} does not let user {user!r} in by {how}; "
            "check WHITEBOARD_KAFKA_SASL_USERNAME, _PASSWORD and _MECHANISM"
        )
    what = str(error) or type(error).__name__
    cure = "; is WHITEBOARD_KAFKA_SSL_CAFILE that of its certificate?" if "CERTIFICATE_VERIFY" in what else ""
    return EventLogUnavailableError(f"the event log at {where} does not answer: {what}{cure}")


@contextmanager
def _admin(settings: Settings) -> Iterator[Any]:
    with reaching(settings), KafkaAdminClient(**client_config(settings, "whiteboard-admin")) as admin:
        yield admin


def topic_names(settings: Settings) -> set[str]:
    """The topics that exist. Raises EventLogUnavailableError when no broker answers."""
    with _admin(settings) as admin:
        return set(admin.list_topics())


def create_topics(settings: Settings) -> list[str]:
    """The names of the topics that were missing and are now there, each with a leader for all its partitions.

    Existing topics are left as they are: another number of partitions would move keys between workers.
    """
    with _admin(settings) as admin:
        present = set(admin.list_topics())
        missing = {
            topic.name: {
                "num_partitions": topic.partitions or settings.kafka_partitions,
                "replication_factor": settings.kafka_replication_factor,
                "configs": _configs(topic, settings.kafka_replication_factor),
            }
            for topic in TOPICS.values()
            if topic.name not in present
        }
        if missing:
            with suppress(kafka_errors.TopicAlreadyExistsError):  # another process was faster
                admin.create_topics(missing)
            admin.wait_for_topics(list(missing))
    return list(missing)


def _configs(topic: Topic, replication_factor: int) -> dict[str, str]:
    configs = {
        "retention.ms": str(topic.retention_ms),
        "retention.bytes": str(RETENTION_BYTES),
        "cleanup.policy": topic.cleanup_policy,
    }
    if replication_factor >= REPLICAS_TO_LOSE_ONE:
        configs["min.insync.replicas"] = str(IN_SYNC)
    return configs


def log_ids(settings: Settings, topics: Collection[str]) -> dict[str, str]:
    """The id of each topic's log; a topic that was lost or deleted and made anew has another.

    Raises EventLogUnavailableError if a topic does not exist.
    """
    with _admin(settings) as admin:
        described = {t["name"]: str(t["topic_id"]) for t in admin.describe_topics(list(topics)) if not t["error_code"]}
    if absent := sorted(set(topics) - described.keys()):
        raise EventLogUnavailableError(f"topics {', '.join(absent)} do not exist: run `whiteboard apply`")
    return {topic: described[topic] for topic in topics}


def committed(settings: Settings, group: str) -> Positions:
    """The next offset that `group` has to read, by (topic, partition); empty for a group that committed nothing."""
    with _admin(settings) as admin:
        offsets = admin.list_group_offsets(group).get(group, {})
    return {(at.topic, at.partition): found.offset for at, found in offsets.items() if found.offset >= 0}
