"""Reads what stands in the log from given positions to its end, apart from any consumer group.

with LogTail(settings, "forwarder", ["fraud.decisions"]) as tail:
    for record in tail.read({("fraud.decisions", 2): 120}): ...    # ConsumerRecord(…, offset=120, headers=[…])
    tail.positions                                                 # {("fraud.decisions", 2): 133, …}: read up to here
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from kafka import KafkaConsumer, TopicPartition

from whiteboard.errors import EventLogUnavailableError
from whiteboard.settings import Settings
from whiteboard.topics import ANSWER_TIMEOUT_MS, Position, Positions, client_config, reaching

FETCH_WAIT_MS = 25
POLL_MS = 100
QUIET_S = 0.3  # several fetches that brought nothing
MAX_RECORDS = 1_000_000  # a poll hands out whole fetches, see `read`


class LogTail:
    """A consumer of all partitions of some topics. Raises EventLogUnavailableError if no broker answers."""

    def __init__(self, settings: Settings, client_id: str, topics: Sequence[str]) -> None:
        self._settings = settings
        self.positions: Positions = {}
        with reaching(settings):
            self._consumer = KafkaConsumer(
                **client_config(settings, client_id),
                enable_auto_commit=False,
                auto_offset_reset="earliest",  # also where retention has dropped the position that is asked for
                fetch_max_wait_ms=FETCH_WAIT_MS,
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )
            found = {topic: self._consumer.partitions_for_topic(topic) for topic in topics}
        if absent := sorted(topic for topic, partitions in found.items() if not partitions):
            self._consumer.close()
            raise EventLogUnavailableError(f"topics {', '.join(absent)} do not exist: run `whiteboard apply`")
        self._partitions = [TopicPartition(topic, p) for topic, partitions in found.items() for p in partitions]

    def ends(self) -> Positions:
        """An offset of each partition that nothing lies beyond but what is written from now on, and a little more.

        The embedded broker takes the beginning of the newest batch for the end of the log.
        """
        with reaching(self._settings):
            ends = self._consumer.end_offsets(self._partitions)
        return {(at.topic, at.partition): offset for at, offset in ends.items()}

    def read(self, positions: Mapping[Position, int]) -> Iterator[Any]:
        """The records from `positions` (default: the beginning) to where the log ended when this was called, or later.

        Raises EventLogUnavailableError if no broker answers any more.
        """
        ends = self.ends()
        self._consumer.assign(self._partitions)
        for at in self._partitions:
            self._consumer.seek(at, positions.get((at.topic, at.partition), 0))
        quiet_since = time.monotonic()
        behind, heard = set(self._partitions), quiet_since
        while behind:
            with reaching(self._settings):
                polled = self._consumer.poll(timeout_ms=POLL_MS, max_records=MAX_RECORDS)
                at_end = {
                    at
                    for at in behind
                    if (self._consumer.position(at, timeout_ms=ANSWER_TIMEOUT_MS) or 0) >= ends[at.topic, at.partition]
                }
            now = time.monotonic()
            if polled:
                quiet_since = heard = now
            for records in polled.values():
                yield from records
            # Beyond the end that was told, the rest of the newest batch may lie: one more fetch brings it whole.
            behind -= at_end if now - quiet_since > QUIET_S else at_end & polled.keys()
            if now - heard > ANSWER_TIMEOUT_MS / 1000:
                raise EventLogUnavailableError(
                    f"the event log at {self._settings.kafka_bootstrap} has not sent what lies before its end"
                )
        with reaching(self._settings):
            for at in self._partitions:
                self.positions[at.topic, at.partition] = self._consumer.position(at, timeout_ms=ANSWER_TIMEOUT_MS) or 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close(timeout_ms=ANSWER_TIMEOUT_MS)
