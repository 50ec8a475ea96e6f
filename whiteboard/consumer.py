"""Reads events from the log, as one member of a group.

with EventConsumer(settings, ["fraud.transactions"], "stream-fraud", SCHEMAS) as consumer:
    batch = consumer.poll(timeout_s=1)    # Batch(records=[Record(…)], positions={("fraud.transactions", 2): 18})
    consumer.commit(batch.positions)
"""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from kafka import errors as kafka_errors
from msgspec import Struct

from whiteboard.clients import OnPartitions, RawRecord, Rebalance, consumer_client
from whiteboard.errors import EventError, EventLogUnavailableError
from whiteboard.producer import EventProducer
from whiteboard.records import Record, RecordDecoder
from whiteboard.settings import Settings
from whiteboard.topics import (
    TOPICS,
    Position,
    Positions,
    Topic,
    dead_letter_topic,
    reaching,
)

log = logging.getLogger("whiteboard")

GAP_S = 1.0  # a batch that was overtaken is there within milliseconds
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
        self._next: dict[Position, int] = {}  # the offset after the last record that was returned
        self._gaps: dict[Position, tuple[int, float]] = {}  # the first offset that was left out, and since when

        def assigned(partitions: set[Position]) -> None:
            for at in partitions:  # others may have read on meanwhile
                self._next.pop(at, None)
            on_assigned(partitions)

        self._rebalance = Rebalance(assigned, on_revoked)
        with reaching(settings):
            self._client = consumer_client(settings, group, topics, self._rebalance)

    def poll(self, timeout_s: float, max_records: int = 5_000) -> Batch:
        """The next records, at most `max_records`; empty if none came within `timeout_s`.

        Raises EventLogUnavailableError if dead letters cannot be written; the same records are then read again.
        """
        try:
            with reaching(self._settings):
                polled = self._without_gaps(self._client.poll(timeout_s, max_records))
        finally:
            self._rebalance.raise_error()
        records: list[Record] = []
        refused: list[tuple[RawRecord, str]] = []
        for (topic, _), raws in polled.items():
            decode = self._decode[topic]
            for raw in raws:
                try:
                    records.append(decode(raw))
                except EventError as error:
                    refused.append((raw, str(error)))
        if refused:
            self._bury(refused, polled)
        positions = {at: raws[-1].offset + 1 for at, raws in polled.items()}
        return Batch(records, positions, Counter(raw.topic for raw, _ in refused))

    def commit(self, positions: Mapping[Position, int]) -> bool:
        """Stores where this group reads on after a restart; False if the group has moved on without this member.

        Within `on_assigned` and `on_revoked` it may be only sent, ahead of whatever the group does next.
        """
        if not positions:
            return True
        try:
            with reaching(self._settings):
                self._client.commit(positions)
        except EventLogUnavailableError as error:
            if not isinstance(error.__cause__, MOVED_ON):
                raise
            log.warning("commit refused: the group has moved on", extra={"group": self._group})
            return False
        return True

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Reads an assigned partition on from `offset`."""
        self._next.pop((topic, partition), None)
        self._client.seek((topic, partition), offset)

    def assignment(self) -> set[Position]:
        """The partitions that are this member's now."""
        return self._client.assignment()

    def lag(self) -> dict[Position, int]:
        """How many records of each assigned partition `poll` has not returned yet.

        {("fraud.transactions", 2): 17, …}. Dead letters count like any record. Empty before partitions are assigned.
        The embedded broker takes the beginning of the newest batch for the end of the log, so it may tell too few,
        never too many. Raises EventLogUnavailableError if no broker answers.
        """
        with reaching(self._settings):
            return self._client.lag()

    def close(self) -> None:
        """Leaves the group, after a last `on_revoked`, so that others take over at once."""
        try:
            self._client.close()
        except kafka_errors.KafkaError:
            log.warning("the group was not left in order; it will notice", exc_info=True)
        if self._dead_letters is not None:
            self._dead_letters.close()
        self._rebalance.raise_error()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bury(self, refused: list[tuple[RawRecord, str]], polled: Mapping[Position, Sequence[RawRecord]]) -> None:
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
                self.seek(*at, raws[0].offset)
            raise

    def _without_gaps(self, polled: Mapping[Position, Sequence[RawRecord]]) -> dict[Position, Sequence[RawRecord]]:
        """The records up to the first offset that is left out; those from there on are read again.

        When several producers write to a partition, the embedded broker may hand out a batch before an earlier one is
        there (once in some 20,000 batches): who reads on never sees it. A gap that stays for GAP_S is none of those,
        and is passed over: Kafka leaves offsets out for marks of its own.
        """
        whole: dict[Position, Sequence[RawRecord]] = {}
        for at, found in polled.items():
            expected, raws = self._next.get(at, found[0].offset), found
            if raws[0].offset > expected or raws[-1].offset - raws[0].offset >= len(raws):
                raws = self._up_to_gap(at, found, expected)
            if raws:
                whole[at], self._next[at] = raws, raws[-1].offset + 1
        return whole

    def _up_to_gap(self, at: Position, raws: Sequence[RawRecord], expected: int) -> Sequence[RawRecord]:
        for place, raw in enumerate(raws):
            if raw.offset > expected:
                first, since = self._gaps.get(at, (-1, 0.0))
                if first != expected:
                    first, since = self._gaps[at] = expected, time.monotonic()
                if time.monotonic() - since < GAP_S:
                    self._client.seek(at, expected)
                    return raws[:place]
                log.warning("records left out", extra={"topic": at[0], "partition": at[1], "from": expected})
            expected = raw.offset + 1
        return raws


def _origin(raw: RawRecord, reason: str) -> dict[str, bytes]:
    where = {"topic": raw.topic, "partition": str(raw.partition), "offset": str(raw.offset), "reason": reason}
    return {**dict(raw.headers), **{name: text.encode(errors="replace") for name, text in where.items()}}
