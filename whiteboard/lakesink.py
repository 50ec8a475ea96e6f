"""The stream worker's buffer in front of the lake: few large files instead of many small ones.

A partition's buffer starts where the lake ends; older records were sunk before and are dropped. It is written when it
is large or old enough. Losing it (kill -9) loses nothing, since offsets are committed only after `flush`.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING

import msgspec

from whiteboard.lake import Lake, table

if TYPE_CHECKING:
    from whiteboard.records import Record

log = logging.getLogger("stream")


@dataclass(slots=True)
class _Buffer:
    first: int  # where the next commit starts
    next: int  # one beyond the last offset read
    records: "list[Record]" = field(default_factory=list)


class LakeSink:
    """Buffers records by topic and partition, and commits them to the lake."""

    def __init__(
        self,
        lake: Lake,
        epochs: Mapping[str, int],
        kinds: Mapping[str, type[msgspec.Struct]],
        *,
        max_rows: int = 20_000,
        max_age_s: float = 2.0,
        cleared: "Callable[[list[Record]], list[Record]]" = lambda records: records,
    ) -> None:
        """`cleared` is asked before records are written: of persons who were erased meanwhile, see erasures.py."""
        self._cleared = cleared
        self._lake, self._epochs, self._kinds = lake, epochs, kinds
        self._max_rows, self._max_age_s = max_rows, max_age_s
        self._buffers: dict[tuple[str, int], _Buffer] = {}
        self._flushed_at = time.monotonic()

    def assign(self, topic: str, partition: int) -> int:
        """Takes a partition over; returns where the lake ends, the first offset that has to be added."""
        end = self._lake.end(topic, self._epochs[topic], partition)
        self._buffers[topic, partition] = _Buffer(end, end)
        return end

    def revoke(self, topic: str, partition: int) -> None:
        """Gives a partition up; what is buffered and not flushed is its next owner's to read again."""
        self._buffers.pop((topic, partition), None)

    def add(self, records: "Iterable[Record]") -> None:
        """Buffers records in offset order; those that the lake already holds are dropped."""
        for record in records:
            buffer = self._buffers[record.topic, record.partition]
            if record.offset >= buffer.next:
                buffer.records.append(record)
                buffer.next = record.offset + 1

    def advance(self, topic: str, partition: int, position: int) -> None:
        """Notes that everything before `position` was read, offsets without a valid record included."""
        buffer = self._buffers[topic, partition]
        buffer.next = max(buffer.next, position)

    def due(self) -> bool:
        """Whether it is time to flush: something is buffered, and it is much or old."""
        rows = sum(len(b.records) for b in self._buffers.values())
        waiting = any(b.next > b.first for b in self._buffers.values())
        if not waiting:
            self._flushed_at = time.monotonic()
        return rows >= self._max_rows or (waiting and time.monotonic() - self._flushed_at >= self._max_age_s)

    def flush(self) -> int:
        """Returns once everything buffered is in the lake: the number of rows that this sink put there.

        Of a partition that another worker has sunk further meanwhile, only what is left is added.
        """
        rows = sum(self._commit(topic, partition, buffer) for (topic, partition), buffer in self._buffers.items())
        self._flushed_at = time.monotonic()
        return rows

    def _commit(self, topic: str, partition: int, buffer: _Buffer) -> int:
        epoch = self._epochs[topic]
        while buffer.next > buffer.first:
            buffer.records = self._cleared(buffer.records)
            data = table(buffer.records, self._kinds[topic], epoch)
            days = [r.event.event_timestamp.astimezone(UTC).date() for r in buffer.records]
            if self._lake.append(topic, epoch, partition, buffer.first, buffer.next - 1, data, days):
                buffer.first, buffer.records = buffer.next, []
                return int(data.num_rows)
            log.warning("overtaken", extra={"topic": topic, "partition": partition, "offset": buffer.first})
            buffer.first = self._lake.end(topic, epoch, partition)
            buffer.next = max(buffer.next, buffer.first)
            buffer.records = [r for r in buffer.records if r.offset >= buffer.first]
        return 0
