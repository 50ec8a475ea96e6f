"""librdkafka, by the package confluent-kafka, as the client underneath EventProducer and EventConsumer.

An extra (`whiteboard[confluent]`), some ten times faster than kafka-python by event: WHITEBOARD_KAFKA_CLIENT=confluent.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import Consumer as Librdkafka
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka import Producer as LibrdkafkaProducer
from kafka import errors as kafka_errors
from msgspec import Struct

from whiteboard.clients import (
    BATCH_BYTES,
    FETCH_WAIT_MS,
    HEARTBEAT_MS,
    MAX_POLL_INTERVAL_MS,
    SESSION_TIMEOUT_MS,
    Done,
    Headers,
    RawRecord,
    Rebalance,
)
from whiteboard.settings import Settings
from whiteboard.topics import ANSWER_TIMEOUT_MS, Position, Positions, client_config

log = logging.getLogger("librdkafka")

MAX_EVENT_BYTES = 1024 * 1024  # as kafka-python's
REACH_S = 5
PREFETCHED_KB = 16 * 1024  # records that wait in memory to be polled
_ACKNOWLEDGED_EVERY_S = 0.005  # callbacks are run this often while events are under way

_OPTIONS = {  # ours, as client_config has them for kafka-python
    "client_id": "client.id",
    "security_protocol": "security.protocol",
    "sasl_mechanism": "sasl.mechanism",
    "sasl_plain_username": "sasl.username",
    "sasl_plain_password": "sasl.password",
    "ssl_cafile": "ssl.ca.location",
    "ssl_certfile": "ssl.certificate.location",
    "ssl_keyfile": "ssl.key.location",
    "request_timeout_ms": "socket.timeout.ms",
}


class Acknowledged(NamedTuple):
    """A Written."""

    partition: int
    offset: int


class RawMessage(Struct, frozen=True, gc=False):
    """A RawRecord."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Producer:
    """A ProducerClient. One thread or another runs all callbacks, never two at a time."""

    def __init__(
        self, settings: Settings, client_id: str, *, linger_ms: int, max_block_ms: int, delivery_timeout_s: float
    ) -> None:
        failures: list[KafkaError] = []
        self._producer = LibrdkafkaProducer(
            {
                **_config(settings, client_id, failures),
                "enable.idempotence": True,  # and with it acks=all
                "partitioner": "murmur2_random",  # the one of Java and kafka-python; librdkafka's own is another
                "linger.ms": linger_ms,
                "batch.size": BATCH_BYTES,
                "compression.type": settings.kafka_compression,
                "delivery.timeout.ms": round(delivery_timeout_s * 1000),
                "topic.metadata.propagation.max.ms": max_block_ms,
                "message.max.bytes": MAX_EVENT_BYTES,
            },
        )
        _reach(self._producer, failures)
        self._serving = threading.RLock()
        self._closed = threading.Event()
        self._given_up = False
        self._thread = threading.Thread(target=self._serve, name=f"{client_id}-acknowledgements", daemon=True)
        self._thread.start()

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int | None, done: Done
    ) -> None:
        """Has it sent."""
        if self._given_up or self._closed.is_set():
            raise kafka_errors.IllegalStateError("the producer is closed")

        def delivered(error: KafkaError | None, message: Any) -> None:
            done(Acknowledged(message.partition(), message.offset()) if error is None else _translated(error))

        stamp = timestamp_ms or 0  # 0: now
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=delivered, timestamp=stamp, headers=headers)
                return
            except BufferError:  # full: room comes with acknowledgements
                with self._serving:
                    self._producer.poll(_ACKNOWLEDGED_EVERY_S)
            except KafkaException as error:
                raise _translated(error.args[0]) from error

    def flush(self, timeout_s: float) -> None:
        """Returns once the outcome of everything sent is known. Raises KafkaTimeoutError."""
        with self._serving:
            if left := self._producer.flush(timeout_s):
                raise kafka_errors.KafkaTimeoutError(f"{left} events are still under way")

    def close(self, timeout_s: float) -> bool:
        """Whether everything was sent in time."""
        self._closed.set()
        self._thread.join()
        with self._serving:
            left = self._producer.flush(timeout_s)
            if left:
                self._producer.purge()
                self._producer.flush(1)  # runs the callbacks of what was given up
            self._producer.close()
        return not left

    def give_up(self) -> None:
        """Refuses what is under way and what is still to come, without waiting."""
        self._given_up = True
        self._producer.purge(blocking=False)

    def _serve(self) -> None:
        while not self._closed.wait(_ACKNOWLEDGED_EVERY_S if len(self._producer) else 10 * _ACKNOWLEDGED_EVERY_S):
            with self._serving:
                self._producer.poll(0)


class Consumer:
    """A ConsumerClient. Callbacks are run within `poll` and `close`, on the caller's thread."""

    def __init__(self, settings: Settings, group: str, topics: Sequence[str], rebalance: Rebalance) -> None:
        self._rebalance, self._moved = rebalance, False
        self._held: set[Position] = set()  # the library's own `assignment` would hold up threads that rebalance
        failures: list[KafkaError] = []
        self._consumer = Librdkafka(
            {
                **_config(settings, group, failures),
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "partition.assignment.strategy": "range",
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                "max.poll.interval.ms": MAX_POLL_INTERVAL_MS,
                "heartbeat.interval.ms": HEARTBEAT_MS,
                "fetch.wait.max.ms": FETCH_WAIT_MS,
                "fetch.queue.backoff.ms": FETCH_WAIT_MS,  # else a full queue stops fetching for a second
                "queued.max.messages.kbytes": PREFETCHED_KB,
                "check.crcs": True,
                "allow.auto.create.topics": False,
            },
        )
        _reach(self._consumer, failures)
        self._consumer.subscribe(list(topics), on_assign=self._assigned, on_revoke=self._revoked)

    def poll(self, timeout_s: float, max_records: int) -> Mapping[Position, Sequence[RawRecord]]:
        """The next records of the partitions that are assigned when it returns."""
        messages: list[Any] = []
        if (first := self._consumer.poll(timeout_s)) is not None:
            self._moved = False
            messages = self._consumer.consume(max_records - 1, 0) if max_records > 1 else []
            if not self._moved:  # else its partition's next owner reads it, from where this one has committed
                messages.insert(0, first)
        polled: dict[Position, list[RawRecord]] = defaultdict(list)
        for message in messages:
            if (error := message.error()) is not None:
                _raise_unless_passing(error)
                continue
            at = message.topic(), message.partition()
            _, timestamp = message.timestamp()
            headers = message.headers() or []
            polled[at].append(RawMessage(*at, message.offset(), timestamp, message.key(), message.value(), headers))
        return polled

    def commit(self, positions: Mapping[Position, int]) -> None:
        """Returns when the group has them."""
        try:
            done = self._consumer.commit(
                offsets=[TopicPartition(*at, offset) for at, offset in positions.items()], asynchronous=False
            )
        except KafkaException as error:
            raise _translated(error.args[0]) from error
        for at in done:
            if at.error is not None:
                raise _translated(at.error)

    def seek(self, at: Position, offset: int) -> None:
        """Reads an assigned partition on from `offset`."""
        self._consumer.seek(TopicPartition(*at, offset))

    def assignment(self) -> set[Position]:
        """The partitions that are this member's now."""
        return set(self._held)

    def lag(self) -> Positions:
        """By assigned partition: how many records `poll` has not returned yet; one question to the brokers for each."""
        if not self._held:
            return {}
        assigned = [TopicPartition(*at) for at in self._held]
        try:
            positions = self._consumer.position(assigned)
            if unread := [at for at in positions if at.offset < 0]:  # it goes on where the group committed, if it did
                positions = [at for at in positions if at.offset >= 0]
                positions += self._consumer.committed(unread, timeout=ANSWER_TIMEOUT_MS / 1000)
            lag = {}
            for at in positions:
                first, end = self._consumer.get_watermark_offsets(at, timeout=ANSWER_TIMEOUT_MS / 1000)
                lag[at.topic, at.partition] = max(0, end - (at.offset if at.offset >= 0 else first))
        except KafkaException as error:
            raise _translated(error.args[0]) from error
        return lag

    def close(self) -> None:
        """Leaves the group, after a last callback."""
        self._consumer.close()

    def _assigned(self, _: Any, partitions: list[TopicPartition]) -> None:
        self._moved = True
        self._held |= _plain(partitions)
        self._rebalance.assigned(_plain(partitions))

    def _revoked(self, _: Any, partitions: list[TopicPartition]) -> None:  # or lost: then a commit is refused
        self._moved = True
        self._rebalance.revoked(_plain(partitions))
        self._held -= _plain(partitions)


def _plain(partitions: Sequence[TopicPartition]) -> set[Position]:
    return {(at.topic, at.partition) for at in partitions}


def _config(settings: Settings, client_id: str, failures: list[KafkaError]) -> dict[str, Any]:
    ours = client_config(settings, client_id)
    return {
        "bootstrap.servers": ",".join(ours["bootstrap_servers"]),
        "ssl.endpoint.identification.algorithm": "https" if settings.kafka_ssl_check_hostname else "none",
        "reconnect.backoff.max.ms": 1_000,
        "logger": log,
        "error_cb": failures.append,
        **{name: ours[known] for known, name in _OPTIONS.items() if known in ours},
    }


def _reach(client: Any, failures: list[KafkaError]) -> None:
    """Returns once a broker has let the client in; raises why none did, at once where trying again is in vain."""
    deadline = time.monotonic() + REACH_S
    while True:
        try:
            client.list_topics(timeout=REACH_S / 10)
            break
        except KafkaException as error:
            client.poll(0)  # runs error_cb
            final = [failure for failure in failures if failure.code() in _FINAL]
            if final or time.monotonic() > deadline:
                raise _translated((final or failures or [error.args[0]])[0]) from error
    failures.clear()


def _raise_unless_passing(error: KafkaError) -> None:
    if not error.retriable() and error.code() != KafkaError._TRANSPORT:
        raise _translated(error)
    log.warning("not read for now", extra={"reason": error.str()})


_FINAL = (KafkaError._AUTHENTICATION, KafkaError._SSL)
_LOCAL = {
    KafkaError._AUTHENTICATION: kafka_errors.SaslAuthenticationFailedError,
    KafkaError._ASSIGNMENT_LOST: kafka_errors.CommitFailedError,
    KafkaError._STATE: kafka_errors.CommitFailedError,
    KafkaError._MSG_TIMED_OUT: kafka_errors.KafkaTimeoutError,
    KafkaError._TIMED_OUT: kafka_errors.KafkaTimeoutError,
    KafkaError._UNKNOWN_TOPIC: kafka_errors.UnknownTopicOrPartitionError,
}


def _translated(error: KafkaError) -> Exception:
    """The error as kafka-python would have it: brokers' by their number, librdkafka's own by their meaning."""
    what = error.str()
    if "certificate verify failed" in what:
        what = f"CERTIFICATE_VERIFY_FAILED: {what}"
    kind = kafka_errors.for_code(error.code()) if error.code() > 0 else _LOCAL.get(error.code())
    translated: Exception = (kind or kafka_errors.KafkaConnectionError)(what)
    return translated
