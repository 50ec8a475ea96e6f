"""Reads events from the log, as one member of a group.

with EventConsumer(settings, ["fraud.transactions"], "stream-fraud", SCHEMAS) as consumer:
    batch = consumer.poll(timeout_s=1)    # Batch(records=[Record(…)], positions={("fraud.transactions", 2): 18})
    consumer.commit(batch.positions)
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata
from msgspec import Struct

from whiteboard.errors import EventError, EventLogUnavailableError
from whiteboard.producer import EventProducer
from whiteboard.records import Record, RecordDecoder
from whiteboard.settings import Settings
from whiteboard.topics import (
    ANSWER_TIMEOUT_MS,
    TOPICS,
    Position,
    Positions,
    Topic,
    client_config,
    dead_letter_topic,
    reaching,
)

log = logging.getLogger("whiteboard")

OnPartitions = Callable[[set[Position]], None]

# The embedded broker looks for new records only when this wait is over: 25 ms make a median latency of 16 ms.
FETCH_WAIT_MS = 25
MOVED_ON = (
    kafka_errors.CommitFailedError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.UnknownMemberIdError,
)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one poll brought: the valid records, in offset order by partition, and where to read on."""

    records: list[Record]
    positions: Positions  # covers undecodable records too
    dead: Mapping[str, int] = field(default_factory=dict)  # how many became dead letters, by topic


class EventConsumer:
    """Reads topics as one member of a consumer group; partitions move between members as these come and go.

    `on_assigned` and `on_revoked` are called within `poll` and `close`, and may commit. What cannot be decoded is
    written to the system's dead letters before `poll` returns. Not for use by several threads.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Sequence[str],
        group: str,
        schemas: Mapping[str, type[Struct]],
        *,
        on_assigned: OnPartitions = lambda _: None,
        on_revoked: OnPartitions = lambda _: None,
    ) -> None:
        self._settings, self._schemas, self._group = settings, schemas, group
        table = {topic: TOPICS.get(topic, Topic(topic, key="")) for topic in topics}
        self._decode = {
            t: RecordDecoder(t, schemas, row.schemas, row.key, row.origins).decode for t, row in table.items()
        }
        self._dead_letters: EventProducer | None = None
        with reaching(settings):
            self._consumer = KafkaConsumer(
                **client_config(settings, group),
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                session_timeout_ms=6_000,
                heartbeat_interval_ms=1_000,
                fetch_max_wait_ms=FETCH_WAIT_MS,
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )
        self._listener = _Listener(on_assigned, on_revoked)
        self._consumer.subscribe(list(topics), listener=self._listener)

    def poll(self, timeout_s: float, max_records: int = 5_000) -> Batch:
        """The next records, at most `max_records`; empty if none came within `timeout_s`.

        Raises EventLogUnavailableError if dead letters cannot be written; the same records are then read again.
        """
        try:
            with reaching(self._settings):
                polled = self._consumer.poll(timeout_ms=round(timeout_s * 1000), max_records=max_records)
        finally:
            self._listener.raise_error()
        records: list[Record] = []
        refused: list[tuple[Any, str]] = []
        for at, raws in polled.items():
            decode = self._decode[at.topic]
            for raw in raws:
                try:
                    records.append(decode(raw))
                except EventError as error:
                    refused.append((raw, str(error)))
        if refused:
            self._bury(refused, polled)
        positions = {(at.topic, at.partition): raws[-1].offset + 1 for at, raws in polled.items()}
        return Batch(records, positions, Counter(raw.topic for raw, _ in refused))

    def commit(self, positions: Mapping[Position, int]) -> bool:
        """Stores where this group reads on after a restart; False if the group has moved on without this member.

        Within `on_assigned` and `on_revoked` the commit is only sent, ahead of whatever the group does next.
        """
        offsets = {TopicPartition(*at): OffsetAndMetadata(offset, "", -1) for at, offset in positions.items()}
        if not offsets:
            return True
        if self._listener.active:  # on the client's network thread, which cannot wait for its own answer
            self._consumer.commit_async(offsets)
            return True
        try:
            with reaching(self._settings):
                self._consumer.commit(offsets, timeout_ms=ANSWER_TIMEOUT_MS)
        except EventLogUnavailableError as error:
            if not isinstance(error.__cause__, MOVED_ON):
                raise
            log.warning("commit refused: the group has moved on", extra={"group": self._group})
            return False
        return True

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Reads an assigned partition on from `offset`."""
        self._consumer.seek(TopicPartition(topic, partition), offset)

    def assignment(self) -> set[Position]:
        """The partitions that are this member's now."""
        return {(at.topic, at.partition) for at in self._consumer.assignment()}

    def lag(self) -> dict[Position, int]:
        """How many records of each assigned partition `poll` has not returned yet; one question to the brokers.

        {("fraud.transactions", 2): 17, …}. Dead letters count like any record. Empty before partitions are assigned.
        The embedded broker takes the beginning of the newest batch for the end of the log, so it may tell too few,
        never too many. Raises EventLogUnavailableError if no broker answers.
        """
        assigned = list(self._consumer.assignment())
        if not assigned:
            return {}
        with reaching(self._settings):
            positions = {at: self._consumer.position(at, timeout_ms=ANSWER_TIMEOUT_MS) for at in assigned}
            ends = self._consumer.end_offsets(assigned)
        return {
            (at.topic, at.partition): max(0, ends[at] - position)
            for at, position in positions.items()
            if position is not None
        }

    def close(self) -> None:
        """Leaves the group, after a last `on_revoked`, so that others take over at once."""
        try:
            self._consumer.close(timeout_ms=ANSWER_TIMEOUT_MS)
        except kafka_errors.KafkaError:
            log.warning("the group was not left in order; it will notice", exc_info=True)
        if self._dead_letters is not None:
            self._dead_letters.close()
        self._listener.raise_error()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bury(self, refused: list[tuple[Any, str]], polled: Mapping[TopicPartition, list[Any]]) -> None:
        try:
            if self._dead_letters is None:
                self._dead_letters = EventProducer(self._settings, f"{self._group}-dead-letters", {})
            for raw, reason in refused:
                self._dead_letters.send_raw(
                    dead_letter_topic(raw.topic),
                    raw.key,
                    raw.value or b"",
                    _origin(raw, reason),
                    created_us=raw.timestamp * 1000,
                )
            self._dead_letters.flush()
        except EventLogUnavailableError:
            for at, raws in polled.items():
                self._consumer.seek(at, raws[0].offset)
            raise


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Calls ours with plain sets. The client runs it on its network thread while `poll` or `close` waits."""

    def __init__(self, on_assigned: OnPartitions, on_revoked: OnPartitions) -> None:
        self._on_assigned, self._on_revoked = on_assigned, on_revoked
        self.active = False
        self._error: Exception | None = None

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._call(self._on_assigned, assigned)

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self._call(self._on_revoked, revoked)

    def raise_error(self) -> None:
        """Raises what a callback raised, which the client would wrap beyond recognition."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _call(self, callback: OnPartitions, partitions: Collection[TopicPartition]) -> None:
        if not partitions:
            return
        self.active = True
        try:
            callback({(at.topic, at.partition) for at in partitions})
        except Exception as error:  # raised again by raise_error
            self._error = error
        finally:
            self.active = False


def _origin(raw: Any, reason: str) -> dict[str, bytes]:
    where = {"topic": raw.topic, "partition": str(raw.partition), "offset": str(raw.offset), "reason": reason}
    return {**dict(raw.headers), **{name: text.encode(errors="replace") for name, text in where.items()}}
