"""kafka-python as the client underneath EventProducer and EventConsumer: the default, nothing but Python."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.producer.transaction_manager import TransactionState
from kafka.structs import OffsetAndMetadata

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

GIVEN_UP_S = 5.0  # for the sender's thread to end once it has been told to


class Producer:
    """A ProducerClient."""

    def __init__(
        self, settings: Settings, client_id: str, *, linger_ms: int, max_block_ms: int, delivery_timeout_s: float
    ) -> None:
        self._producer = KafkaProducer(
            **client_config(settings, client_id),
            linger_ms=linger_ms,
            max_block_ms=max_block_ms,
            batch_size=BATCH_BYTES,
            compression_type=None if settings.kafka_compression == "none" else settings.kafka_compression,
            delivery_timeout_ms=round(delivery_timeout_s * 1000),
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
        _ask_for_new_ids(self._producer)

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int | None, done: Done
    ) -> None:
        """Has it sent."""
        future = self._producer.send(topic, key=key, value=value, headers=headers, timestamp_ms=timestamp_ms)
        future.add_both(done)

    def flush(self, timeout_s: float) -> None:
        """Returns once the outcome of everything sent is known. Raises KafkaTimeoutError."""
        self._producer.flush(timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Whether everything was sent in time."""
        try:
            self._producer.close(timeout_s)
        except kafka_errors.KafkaTimeoutError:
            self.give_up()  # else its thread would go on trying for ever
            self._producer.close(max(timeout_s, GIVEN_UP_S))
            return False
        return True

    def give_up(self) -> None:
        """Refuses what is under way and what is still to come, without waiting."""
        self._producer._sender.force_close()


class Consumer:
    """A ConsumerClient."""

    def __init__(self, settings: Settings, group: str, topics: Sequence[str], rebalance: Rebalance) -> None:
        self._rebalance = rebalance
        self._consumer = KafkaConsumer(
            **client_config(settings, group),
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
        self._consumer.subscribe(list(topics), listener=_Listener(rebalance))
        for topic in topics:
            # Asks for it if it is not known yet. A leader of the group that knows no partitions hands out none, and
            # kafka-python 3.0.12 may then sit in the group for ever without a heartbeat.
            self._consumer.partitions_for_topic(topic)

    def poll(self, timeout_s: float, max_records: int) -> Mapping[Position, Sequence[RawRecord]]:
        """The next records of the partitions that are assigned when it returns."""
        polled = self._consumer.poll(timeout_ms=round(timeout_s * 1000), max_records=max_records)
        return {(at.topic, at.partition): records for at, records in polled.items()}

    def commit(self, positions: Mapping[Position, int]) -> None:
        """Returns when the group has them; within a callback they are only sent."""
        offsets = {TopicPartition(*at): OffsetAndMetadata(offset, "", -1) for at, offset in positions.items()}
        if self._rebalance.active:  # on the client's network thread, which cannot wait for its own answer
            self._consumer.commit_async(offsets)
        else:
            self._consumer.commit(offsets, timeout_ms=ANSWER_TIMEOUT_MS)

    def seek(self, at: Position, offset: int) -> None:
        """Reads an assigned partition on from `offset`."""
        self._consumer.seek(TopicPartition(*at), offset)

    def assignment(self) -> set[Position]:
        """The partitions that are this member's now."""
        return _plain(self._consumer.assignment())

    def lag(self) -> Positions:
        """By assigned partition: how many records `poll` has not returned yet; one question to the brokers."""
        assigned = list(self._consumer.assignment())
        if not assigned:
            return {}
        positions = {at: self._consumer.position(at, timeout_ms=ANSWER_TIMEOUT_MS) for at in assigned}
        ends = self._consumer.end_offsets(assigned)
        return {
            (at.topic, at.partition): max(0, ends[at] - position)
            for at, position in positions.items()
            if position is not None
        }

    def close(self) -> None:
        """Leaves the group, after a last callback."""
        self._consumer.close(timeout_ms=ANSWER_TIMEOUT_MS)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """The client runs it on its network thread while `poll` or `close` waits."""

    def __init__(self, rebalance: Rebalance) -> None:
        self._rebalance = rebalance

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._rebalance.assigned(_plain(assigned))

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self._rebalance.revoked(_plain(revoked))


def _plain(partitions: Collection[Any]) -> set[Position]:
    return {(at.topic, at.partition) for at in partitions}


def _ask_for_new_ids(producer: KafkaProducer) -> None:
    """Has the client ask for another producer id when it gave its own up.

    It does so when events were not acknowledged in time, since it cannot know whether they were written. kafka-python
    3.0.12 then still takes itself for initialised and waits for the other id for ever.
    """
    sequences = producer._transaction_manager
    give_up = sequences.reset_producer_id

    def give_up_and_ask() -> None:
        give_up()
        sequences._current_state = TransactionState.UNINITIALIZED

    sequences.reset_producer_id = give_up_and_ask
