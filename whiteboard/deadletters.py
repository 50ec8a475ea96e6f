"""Dead letters: look at what could not be decoded, and send it again after a fix.

    whiteboard dead-letters list
    whiteboard dead-letters replay

A dead letter is the original key, bytes and headers, with headers added that say why it was refused and where it lay:

    reason "Expected `float`, got `str` - at `$.amount`"   topic "fraud.transactions"   partition "2"   offset "17"
"""

import time
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from whiteboard.errors import EventLogUnavailableError
from whiteboard.eventlog import EventProducer, client_config, dead_letter_topic, log_ids, reaching
from whiteboard.settings import Settings

_ORIGIN = ("topic", "partition", "offset", "reason")  # the headers that burying added
_READ_TIMEOUT_S = 60.0
_SEND_TOGETHER = 1_000  # replayed between two commits


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused record: its origin, the reason, and its bytes as they were."""

    topic: str
    partition: int
    offset: int
    reason: str
    key: bytes | None
    value: bytes
    headers: dict[str, bytes]
    timestamp_ms: int  # of the original
    position: int  # its own offset among the dead letters
    replayed: bool

    @property
    def origin(self) -> tuple[str, int, int]:
        """Where it lay: topic, partition, offset."""
        return self.topic, self.partition, self.offset


def list_dead_letters(settings: Settings, system: str, limit: int | None = None) -> list[DeadLetter]:
    """The dead letters of a system, oldest first; the newest `limit` of them if given."""
    with reaching(settings), _consumer(settings, system) as consumer:
        letters = _read(consumer, system)
    return letters[-limit:] if limit else letters


def replay_dead_letters(settings: Settings, system: str) -> int:
    """Sends every letter that was not yet replayed to the topic it came from, in order; returns how many.

    The same record, buried twice because its reader crashed in between, is sent once. What is sent now becomes known
    now: it keeps key, value and headers, not its timestamp. A letter that is still bad becomes a new dead letter.
    After a replay that died half-way, the next may send its last thousand letters again.
    """
    at = TopicPartition(dead_letter_topic(f"{system}."), 0)
    with reaching(settings), _consumer(settings, system) as consumer:
        letters = _read(consumer, system)  # all, before the first is sent: one that is refused anew comes back here
        seen = {letter.origin for letter in letters if letter.replayed}
        due = []
        for letter in letters:
            if not letter.replayed and letter.origin not in seen:
                seen.add(letter.origin)
                due.append(letter)
        with EventProducer(settings, "dead-letter-replay", {}) as producer:
            for start in range(0, len(due), _SEND_TOGETHER):
                for letter in due[start : start + _SEND_TOGETHER]:
                    producer.send_raw(letter.topic, letter.key, letter.value, letter.headers)
                producer.flush()
                consumer.commit({at: OffsetAndMetadata(letter.position + 1, "", -1)})
        if letters:
            consumer.commit({at: OffsetAndMetadata(letters[-1].position + 1, "", -1)})
    return len(due)


def _consumer(settings: Settings, system: str) -> Any:
    log_ids(settings, [dead_letter_topic(f"{system}.")])  # says so if there is no such topic
    # not a member of a group that shares partitions: the group only keeps the offset up to which letters were replayed
    consumer = KafkaConsumer(
        **client_config(settings, "dead-letters"),
        group_id=f"{system}-dead-letter-replay",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=100,
        allow_auto_create_topics=False,
        metrics_enabled=False,
    )
    consumer.assign([TopicPartition(dead_letter_topic(f"{system}."), 0)])
    return consumer


def _read(consumer: Any, system: str) -> list[DeadLetter]:
    at = TopicPartition(dead_letter_topic(f"{system}."), 0)
    replayed = consumer.committed(at) or 0
    consumer.seek_to_beginning(at)
    letters: list[DeadLetter] = []
    deadline = time.monotonic() + _READ_TIMEOUT_S
    # the high watermark comes with every answer, and is exact with brokers whose end offsets are not
    while (end := consumer.highwater(at)) is None or consumer.position(at) < end:
        for records in consumer.poll(timeout_ms=100).values():
            letters += [_letter(record, replayed) for record in records]
        if time.monotonic() > deadline:
            raise EventLogUnavailableError(f"{at.topic} could not be read to its end within {_READ_TIMEOUT_S:.0f} s")
    return letters


def _letter(record: Any, replayed: int) -> DeadLetter:
    headers = dict(record.headers)
    return DeadLetter(
        topic=headers["topic"].decode(),
        partition=int(headers["partition"]),
        offset=int(headers["offset"]),
        reason=headers["reason"].decode(errors="replace"),
        key=record.key,
        value=record.value,
        headers={name: value for name, value in headers.items() if name not in _ORIGIN},
        timestamp_ms=record.timestamp,
        position=record.offset,
        replayed=record.offset < replayed,
    )
