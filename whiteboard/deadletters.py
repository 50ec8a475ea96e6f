"""Dead letters: look at what could not be decoded, and send it again after a fix.

    whiteboard dead-letters list
    whiteboard dead-letters replay

A dead letter is the original bytes and key, with headers that say why it was refused and where it came from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from whiteboard.eventlog import EventProducer, client_config, reaching
from whiteboard.settings import Settings

REPLAY_GROUP = "dead-letter-replay"  # its committed offset says which letters were sent again
_ORIGIN = ("topic", "partition", "offset", "reason")  # the headers that burying added
_QUIET_POLLS = 3  # of 500 ms without a record: the end (a broker's end offsets are not always exact)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused record: its origin, the reason, and its bytes as they were."""

    topic: str
    partition: int
    offset: int
    reason: str
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]
    timestamp_ms: int
    position: int  # its own offset in the dead-letter topic


def list_dead_letters(settings: Settings, system: str, limit: int | None = None) -> list[DeadLetter]:
    """The dead letters of a system, oldest first; the newest `limit` of them if given."""
    letters = list(_read(settings, system, group=None))
    return letters[-limit:] if limit else letters


def replay_dead_letters(settings: Settings, system: str) -> int:
    """Sends every letter that was not yet replayed to the topic it came from, in order; returns how many.

    A letter that is still bad becomes a new dead letter. Killed half-way, the next call may send some again, which
    the offsets of their new copies do not hide: replaying is at least once.
    """
    replayed = 0
    with EventProducer(settings, "dead-letter-replay", {}) as producer:
        for letter in _read(settings, system, group=f"{REPLAY_GROUP}-{system}", after=lambda: producer.flush()):
            producer.send_raw(
                letter.topic, letter.key, letter.value, letter.headers, created_us=letter.timestamp_ms * 1000
            )
            replayed += 1
    return replayed


def _read(settings: Settings, system: str, group: str | None, after: Any = None) -> Iterator[DeadLetter]:
    """Reads to the end; with a group from where it stopped last, committing after `after()` has returned."""
    topic = TopicPartition(f"{system}.dead-letters", 0)
    with reaching(settings):
        consumer = KafkaConsumer(
            **client_config(settings, "dead-letters"),
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
    try:
        consumer.assign([topic])
        if group is None:
            consumer.seek_to_beginning(topic)
        quiet, found = 0, False
        while quiet < _QUIET_POLLS:
            records = [r for batch in consumer.poll(timeout_ms=500).values() for r in batch]
            quiet = 0 if records else quiet + 1
            for record in records:
                found = True
                yield _letter(record)
        if group is not None and found:
            after()
            consumer.commit()
    finally:
        consumer.close()


def _letter(record: Any) -> DeadLetter:
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
    )
