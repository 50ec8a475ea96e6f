"""The event log: Kafka through kafka-python 3. Topics, producer and consumer loop.

    key c-12 | headers schema=fraud.transaction.v1 trace=4bf9… | {"transaction_id": "t-17", "amount": 57.16, …}

Every record carries its schema's name and a trace id in headers. Values are JSON, decoded strictly into msgspec
Structs; what cannot be decoded goes to `<system>.dead-letters` with the reason and its origin, and the stream goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError
from kafka.structs import OffsetAndMetadata

from whiteboard.errors import EventError, EventLogUnavailableError
from whiteboard.settings import Settings

DAY_MS = 86_400_000
Headers = list[tuple[str, bytes]]
TopicPositions = dict[tuple[str, int], int]  # (topic, partition) → offset


@dataclass(frozen=True, slots=True)
class Topic:
    """A row of the topic table. Records of one key stay in order, since a key always goes to one partition."""

    name: str
    key: str
    retention_ms: int
    cleanup_policy: str = "delete"
    partitions: int | None = None  # None: as many as the settings say


TOPICS = (
    Topic("fraud.transactions", "customer_id", 30 * DAY_MS),
    Topic("fraud.transactions-by-terminal", "terminal_id", 7 * DAY_MS),  # can be made anew from its sources
    Topic("fraud.decisions", "customer_id", 30 * DAY_MS),
    Topic("fraud.labels", "customer_id", 30 * DAY_MS),
    Topic("fraud.alerts", "kind", 90 * DAY_MS, partitions=1),
    Topic("fraud.dead-letters", "source topic", 90 * DAY_MS, partitions=1),
)


@dataclass(frozen=True, slots=True)
class Record:
    """An event as it was read: where it stood, when it was written (`created_us`), and what it says."""

    topic: str
    partition: int
    offset: int
    key: str
    schema: str
    event: Any
    created_us: int
    trace: str
    headers: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one poll returned. `positions` covers all of it, also records that became dead letters."""

    records: list[Record]
    positions: TopicPositions


def connection(settings: Settings) -> dict[str, Any]:
    """The connection options of every kafka-python client: brokers, TLS and SASL as the settings say."""
    if not settings.kafka_bootstrap:
        raise EventLogUnavailableError(
            "no broker is known: start the stack (`whiteboard up`) or set WHITEBOARD_KAFKA_BOOTSTRAP=host:port"
        )
    password = settings.kafka_sasl_password
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap.split(","),
        "security_protocol": settings.kafka_security_protocol,
        "sasl_mechanism": settings.kafka_sasl_mechanism,
        "sasl_plain_username": settings.kafka_sasl_username,
        "sasl_plain_password": password.get_secret_value() if password else None,
        "ssl_cafile": settings.kafka_ssl_cafile and str(settings.kafka_ssl_cafile),
        "ssl_certfile": settings.kafka_ssl_certfile and str(settings.kafka_ssl_certfile),
        "ssl_keyfile": settings.kafka_ssl_keyfile and str(settings.kafka_ssl_keyfile),
        "ssl_check_hostname": settings.kafka_ssl_check_hostname,
        "bootstrap_timeout_ms": 10_000,
    }
    return {name: value for name, value in options.items() if value is not None}


def _connect(client: type, settings: Settings, **options: Any) -> Any:
    try:
        return client(**connection(settings), **options)
    except KafkaError as error:
        raise EventLogUnavailableError(f"no broker answers at {settings.kafka_bootstrap}: {error}") from error


def create_topics(settings: Settings, topics: Sequence[Topic] = TOPICS) -> None:
    """Creates the topics that are missing, each with its partitions, retention and cleanup policy."""
    admin = _connect(KafkaAdminClient, settings)
    try:
        present = set(admin.list_topics())
        for topic in topics:
            if topic.name in present:
                continue
            new = NewTopic(
                name=topic.name,
                num_partitions=topic.partitions or settings.kafka_partitions,
                replication_factor=settings.kafka_replication_factor,
                topic_configs={"retention.ms": str(topic.retention_ms), "cleanup.policy": topic.cleanup_policy},
            )
            try:
                admin.create_topics([new])
            except TopicAlreadyExistsError:  # another process was faster
                continue
    finally:
        admin.close()


def topic_names(settings: Settings) -> set[str]:
    """The topics that exist."""
    admin = _connect(KafkaAdminClient, settings)
    try:
        return set(admin.list_topics())
    finally:
        admin.close()


def log_ids(settings: Settings, topics: Sequence[str]) -> dict[str, str]:
    """Kafka's own id of each topic: a topic that was lost or deleted and made anew has another one."""
    admin = _connect(KafkaAdminClient, settings)
    try:
        return {t["name"]: str(t["topic_id"]) for t in admin.describe_topics(list(topics))}
    finally:
        admin.close()


def committed(settings: Settings, group: str) -> TopicPositions:
    """What a consumer group has committed: the next offset of each partition."""
    admin = _connect(KafkaAdminClient, settings)
    try:
        offsets = admin.list_group_offsets(group)[group]
        return {(tp.topic, tp.partition): meta.offset for tp, meta in offsets.items()}
    finally:
        admin.close()


class Codec:
    """Events to bytes and back, by schema name."""

    def __init__(self, schemas: Mapping[str, type[msgspec.Struct]]) -> None:
        self._names = {kind: name for name, kind in schemas.items()}
        self._decoders = {name: msgspec.json.Decoder(kind) for name, kind in schemas.items()}
        self.encode = msgspec.json.Encoder().encode

    def schema_of(self, event: msgspec.Struct) -> str:
        """The schema name of an event."""
        return self._names[type(event)]

    def decode(self, schema: str, value: bytes | None) -> Any:
        """The event in `value`. Raises EventError with the reason when it is not a valid event of that schema."""
        decoder = self._decoders.get(schema)
        if decoder is None:
            raise EventError(f"unknown schema {schema!r}; known are {', '.join(sorted(self._decoders))}")
        try:
            return decoder.decode(value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EventError(f"not a {schema}: {error}") from error


class EventProducer:
    """Sends events; idempotent and acknowledged by all replicas, in order within a partition.

    `linger_ms` trades latency for batches: 20 for bulk, 2 for a service. Raises EventLogUnavailableError when no broker
    answers on construction. Sending never blocks for long; `failed` counts records that the broker did not take.
    """

    def __init__(
        self, settings: Settings, client_id: str, schemas: Mapping[str, type[msgspec.Struct]], *, linger_ms: int = 2
    ) -> None:
        self._codec = Codec(schemas)
        compression = settings.kafka_compression
        self._producer = _connect(
            KafkaProducer,
            settings,
            client_id=client_id,
            compression_type=None if compression == "none" else compression,
            linger_ms=linger_ms,
            batch_size=131_072,
            metrics_enabled=False,
        )
        self.sent = 0
        self.failed = 0

    def send(
        self,
        topic: str,
        event: msgspec.Struct,
        *,
        key: str,
        created_us: int | None = None,
        trace: str = "",
        headers: Mapping[str, bytes] | None = None,
    ) -> Any:
        """Hands an event to the sender thread; returns kafka-python's future of its partition and offset."""
        all_headers = [("schema", self._codec.schema_of(event).encode()), ("trace", trace.encode())]
        if headers:
            all_headers += headers.items()
        timestamp_ms = None if created_us is None else created_us // 1000
        return self.send_raw(topic, key.encode(), self._codec.encode(event), all_headers, timestamp_ms)

    def send_raw(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int | None = None
    ) -> Any:
        """Sends bytes as they are: dead letters, their replay, and tests of bad input."""
        future = self._producer.send(topic, value=value, key=key, headers=headers, timestamp_ms=timestamp_ms)
        self.sent += 1
        future.add_errback(self._count_failure)
        return future

    def _count_failure(self, _: BaseException) -> None:
        self.failed += 1

    def flush(self, timeout_s: float = 30.0) -> None:
        """Waits until everything sent is acknowledged. Raises EventLogUnavailableError when that takes too long."""
        try:
            self._producer.flush(timeout=timeout_s)
        except KafkaError as error:
            raise EventLogUnavailableError(f"records are not acknowledged within {timeout_s} s: {error}") from error
        if self.failed:
            raise EventLogUnavailableError(f"{self.failed} of {self.sent} records were not taken by the broker")

    def close(self, timeout_s: float = 10.0) -> None:
        """Flushes as far as possible and closes the connection."""
        self._producer.close(timeout=timeout_s)

    def __enter__(self) -> "EventProducer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class EventConsumer:
    """A member of a consumer group that reads events from the beginning, and commits only when told to."""

    def __init__(
        self,
        settings: Settings,
        topics: Sequence[str],
        group: str,
        schemas: Mapping[str, type[msgspec.Struct]],
        *,
        on_assigned: Callable[[set[tuple[str, int]]], None] = lambda _: None,
        on_revoked: Callable[[set[tuple[str, int]]], None] = lambda _: None,
    ) -> None:
        self._codec = Codec(schemas)
        self._settings, self._schemas = settings, schemas
        self._dead_letters: EventProducer | None = None
        self.dead_lettered = 0
        self._consumer = _connect(
            KafkaConsumer,
            settings,
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=6_000,  # a join takes half of it: a takeover costs some seconds instead of a minute
            heartbeat_interval_ms=1_000,
            fetch_max_wait_ms=50,
            metrics_enabled=False,
        )
        self._consumer.subscribe(list(topics), listener=_Listener(on_assigned, on_revoked))

    def poll(self, timeout_s: float, max_records: int = 5_000) -> Batch:
        """The next events, at most `max_records`; empty when none came within `timeout_s`.

        What cannot be decoded is in the dead letters, acknowledged, before this returns.
        """
        polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records)
        records, positions, dead = [], {}, 0
        for tp, raw in polled.items():
            positions[tp.topic, tp.partition] = raw[-1].offset + 1
            for r in raw:
                try:
                    records.append(self._record(r))
                except EventError as error:
                    self._bury(r, str(error))
                    dead += 1
        if dead and self._dead_letters:
            self._dead_letters.flush()
            self.dead_lettered += dead
        return Batch(records, positions)

    def _record(self, r: Any) -> Record:
        headers = dict(r.headers)
        schema = headers.get("schema", b"").decode(errors="replace")
        event = self._codec.decode(schema, r.value)
        key = (r.key or b"").decode(errors="replace")
        trace = headers.get("trace", b"").decode(errors="replace")
        return Record(r.topic, r.partition, r.offset, key, schema, event, r.timestamp * 1000, trace, headers)

    def _bury(self, r: Any, reason: str) -> None:
        if self._dead_letters is None:
            self._dead_letters = EventProducer(self._settings, "dead-letters", self._schemas)
        origin = [("reason", reason), ("topic", r.topic), ("partition", str(r.partition)), ("offset", str(r.offset))]
        original = [(f"original-{name}", value) for name, value in r.headers]
        headers = [(name, text.encode()) for name, text in origin] + original
        system = r.topic.partition(".")[0]
        self._dead_letters.send_raw(f"{system}.dead-letters", r.key, r.value, headers, r.timestamp)

    def commit(self, positions: TopicPositions) -> None:
        """Remembers for the group that everything before `positions` is done; silent if the group has moved on."""
        offsets = {TopicPartition(t, p): OffsetAndMetadata(o, "", -1) for (t, p), o in positions.items()}
        own = self._consumer.assignment()
        mine = {tp: offset for tp, offset in offsets.items() if tp in own}
        if mine:
            try:
                self._consumer.commit(mine)
            except KafkaError:  # overtaken: the partitions' next owner reads again, which changes nothing
                return

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Continues at `offset`."""
        self._consumer.seek(TopicPartition(topic, partition), offset)

    def close(self) -> None:
        """Leaves the group at once, so that others take over without waiting for a time-out."""
        self._consumer.close()
        if self._dead_letters:
            self._dead_letters.close()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, assigned: Callable[[set[tuple[str, int]]], None], revoked: Callable[[set[tuple[str, int]]], None]):
        self._assigned, self._revoked = assigned, revoked

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._assigned({(tp.topic, tp.partition) for tp in assigned})

    def on_partitions_revoked(self, revoked: Any) -> None:
        self._revoked({(tp.topic, tp.partition) for tp in revoked})
