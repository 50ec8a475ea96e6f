"""What the forwarder of a spool knows: how far everything is acknowledged, and where each event lies in the log.

    ledger = Ledger(folder)
    ledger.note(Acknowledgement(4711, "fraud.decisions", "01a2179d-…", 2, 120))
    ledger.point.next = 4712
    ledger.save()
    ledger.prune(reached, keep_bytes)

Segments are kept after all their events are acknowledged, until these have reached the lake: a log may be lost with
what is in it, and the events are sent again then.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec

from whiteboard.commits import Commits
from whiteboard.frames import frame, frames
from whiteboard.spool import CHECKPOINT, Checkpoint, checkpoint, first_of, replace, segments


class Acknowledgement(NamedTuple):
    """Where an event lies. One that can never be written has no log: ""."""

    number: int
    topic: str
    log: str
    partition: int
    offset: int


class Reached:
    """Whether events have reached the lake, as of when it is made."""

    def __init__(self, commits: Commits) -> None:
        self._commits = commits
        self._known: dict[str, tuple[list[str], dict[tuple[int, int], int]]] = {}

    def __call__(self, event: Acknowledgement) -> bool:
        """Whether the lake holds the event, or nothing can be done for it."""
        if not event.log:
            return True
        if event.topic not in self._known:
            self._known[event.topic] = self._commits.epochs(event.topic), self._commits.coverage(event.topic)
        logs, coverage = self._known[event.topic]
        return event.log in logs and event.offset < coverage.get((logs.index(event.log), event.partition), 0)


class Ledger:
    """Checkpoint and acknowledgements of one spool. Only the holder of the forwarder's lock may write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.point = checkpoint(folder) or Checkpoint()
        self._noted: list[Acknowledgement] = []
        self._ends: dict[Path, list[Acknowledgement]] = {}  # of settled segments: the last event by topic and partition

    def note(self, event: Acknowledgement) -> None:
        """Remembers where an event lies; `save` writes it down."""
        self._noted.append(event)
        if event.log:
            positions = self.point.positions.setdefault(event.topic, {})
            positions[event.partition] = max(positions.get(event.partition, 0), event.offset + 1)
        else:
            self.point.lost[event.topic] = self.point.lost.get(event.topic, 0) + 1

    def save(self) -> None:
        """Writes down what is known. Raises OSError if it cannot; then it is kept for the next time."""
        if self._noted:
            files = segments(self._folder)
            firsts = [first_of(segment) for segment in files]
            by_file: dict[Path, list[Acknowledgement]] = defaultdict(list)
            for event in self._noted:
                by_file[files[max(0, bisect_right(firsts, event.number) - 1)]].append(event)
            for segment, events in by_file.items():
                with segment.with_suffix(".acks").open("ab") as file:
                    file.write(frame(events[0].number, msgspec.msgpack.encode(events)))
            self._noted = []
        replace(self._folder / CHECKPOINT, self.point)

    def acknowledged(self, start: int) -> dict[int, Acknowledgement]:
        """What is known of the events from number `start` on, by number; the newest if an event was sent again."""
        files = segments(self._folder)
        ends = [first_of(segment) for segment in files[1:]] + [0]
        wanted = (segment for segment, last in zip(files, ends, strict=True) if last > start or not last)
        return {event.number: event for segment in wanted for event in _read(segment) if event.number >= start}

    def prune(self, reached: Reached, keep_bytes: int) -> list[Path]:
        """Drops and returns the settled segments that have reached the lake, and the oldest beyond `keep_bytes`."""
        files = segments(self._folder)
        settled = [s for s, later in pairwise(files) if first_of(later) <= self.point.next]
        sizes = {segment: segment.stat().st_size for segment in settled}
        excess = sum(sizes.values()) - keep_bytes
        dropped = []
        for segment in settled:
            if excess <= 0 and not all(map(reached, self._last_events(segment))):
                break  # what is left has no gaps
            segment.unlink()
            segment.with_suffix(".acks").unlink(missing_ok=True)
            self._ends.pop(segment, None)
            excess -= sizes[segment]
            dropped.append(segment)
        return dropped

    def rewound(self) -> None:
        """Forgets what it concluded from settled segments: they are not, any more."""
        self._ends.clear()

    def _last_events(self, segment: Path) -> Iterable[Acknowledgement]:
        """By topic, log and partition the event that reaches the lake last."""
        if segment not in self._ends:
            last: dict[tuple[str, str, int], Acknowledgement] = {}
            newest = {event.number: event for event in _read(segment)}
            for event in newest.values():
                at = (event.topic, event.log, event.partition)
                last[at] = max(last.get(at, event), event, key=lambda e: e.offset)
            self._ends[segment] = list(last.values())
        return self._ends[segment]


def _read(segment: Path) -> Iterable[Acknowledgement]:
    path = segment.with_suffix(".acks")
    if path.exists():
        for found in frames(path.read_bytes()):
            yield from msgspec.msgpack.decode(found.payload, type=list[Acknowledgement])
