"""A spool: what a service has promised to write to the event log, in files, until it is there.

    HOME/spool/fraud-service-1/spool.json                   {"id": "5f0c…", "topics": ["fraud.transactions", …], …}
                              /00000000000000000001.seg     letters, the first of which begins with event number 1
                              /00000000000000000001.acks    where the events of that segment lie in the log
                              /checkpoint.json              every event below `next` is acknowledged
                              /writer.lock, forwarder.lock  held by the service, and by the process that empties it

A letter holds all events of one request; it is one frame (`frames.py`), MessagePack: [key, trace, [[topic, schema,
value], …]]. Events are numbered from 1 without a gap; the number and the spool's id go along as header, so that an
event that may or may not have been written can be looked for in the log.
"""

import fcntl
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import IO

import msgspec
from msgspec import Struct

from whiteboard.frames import frame, frames

SEGMENT_S = 600.0  # then a segment is closed however small it is, so that what is done can be dropped
SEGMENT_BYTES = 4 * 1024**2  # what is dropped at once; some 2,000 decisions
META, CHECKPOINT, WRITER_LOCK, FORWARDER_LOCK = "spool.json", "checkpoint.json", "writer.lock", "forwarder.lock"


class Envelope(Struct, array_like=True, frozen=True):
    """An event as it will lie in the log."""

    topic: str
    schema: str
    value: bytes


class Letter(Struct, array_like=True, frozen=True):
    """The events of one request."""

    key: str
    trace: str
    events: list[Envelope]


class Meta(Struct):
    """What a spool says of itself. `writer` is another one each time that a service takes it."""

    id: str
    topics: list[str]
    writer: str


class Checkpoint(Struct):
    """How far the forwarder of a spool has come."""

    next: int = 1  # every event with a smaller number is acknowledged (or lost)
    logs: dict[str, str] = {}  # by topic: the id of the log in which they are
    positions: dict[str, dict[int, int]] = {}  # by topic and partition: what may be ours and unknown lies from here on
    clean: bool = True  # nothing was sent beyond `next`
    lost: dict[str, int] = {}  # by topic: events that can never be written
    writer: str = ""  # the mark of the service that the forwarder was started by
    problem: str = "no broker has answered yet"


def segments(folder: Path) -> list[Path]:
    """The segment files, oldest first."""
    return [folder / name for name in sorted(os.listdir(folder)) if name.endswith(".seg")]


def first_of(segment: Path) -> int:
    """The number of a segment's first event."""
    return int(segment.stem)


def letters(segment: Path) -> Iterator[tuple[int, Letter]]:
    """A segment's letters, each with the number of its first event."""
    for found in frames(segment.read_bytes()):
        yield found.number, decode(found.payload)


_decoder = msgspec.msgpack.Decoder(Letter)
decode = _decoder.decode


def lock(path: Path, *, wait: bool = False) -> IO[str] | None:
    """The lock, to be kept open as long as it is to be held; None if somebody else holds it and we are not to wait."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    return file


def replace(path: Path, value: Struct) -> None:
    """Writes `value` as JSON; who reads meanwhile sees the old text or the new one."""
    draft = path.with_suffix(".tmp")
    draft.write_bytes(msgspec.json.encode(value))
    draft.replace(path)


def checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint; None if there is none that can be read."""
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / CHECKPOINT).read_bytes(), type=Checkpoint)
    return None


def meta(folder: Path) -> Meta | None:
    """What the spool says of itself; None if there is nothing that can be read."""
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / META).read_bytes(), type=Meta)
    return None


def end(folder: Path) -> int:
    """The number that the next event will have."""
    known = checkpoint(folder)
    following = known.next if known else 1
    for segment in reversed(segments(folder)):
        for number, letter in letters(segment):
            following = max(following, number + len(letter.events))
        return max(following, first_of(segment))
    return following


def waiting_bytes(folder: Path, following: int) -> int:
    """The size of the segments that hold an event from number `following` on, the newest segment included."""
    files = segments(folder)
    ends = [first_of(later) for later in files[1:]]
    held = [segment for segment, last in zip(files, ends, strict=False) if last > following] + files[-1:]
    size = 0
    for segment in held:
        with suppress(FileNotFoundError):  # the forwarder has just dropped it
            size += segment.stat().st_size
    return size


class Reader:
    """Reads a spool's letters in order while it is written to."""

    def __init__(self, folder: Path, start: int) -> None:
        self.next = start  # the number of the first event that was not handed out yet
        self.missing = 0  # events that damage has taken
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._first = 0
        self._read: deque[tuple[int, Letter]] = deque()

    def take(self) -> tuple[int, Letter] | None:
        """The next letter and the number of its first event; None if there is none yet."""
        while not self._read:
            if not self._refill():
                return None
        number, letter = self._read.popleft()
        self.missing += max(0, number - self.next)
        self.next = number + len(letter.events)
        return number, letter

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _refill(self) -> bool:
        """Whether there is more to look at: letters, or another segment."""
        if self._file is not None and self._read_on(growing=True):
            return True
        firsts = [first_of(segment) for segment in segments(self._folder)]
        if self._file is None:
            return self._open(max((f for f in firsts if f <= self.next), default=min(firsts, default=0)))
        later = [f for f in firsts if f > self._first]
        # A segment with a successor grows no more; what it got before that is read first.
        return bool(later) and (self._read_on(growing=False) or self._open(min(later)))

    def _read_on(self, growing: bool) -> bool:
        """Whether the file has whole letters that were not read yet; reads them."""
        assert self._file is not None
        at, consumed = self._file.tell(), 0
        for found in frames(self._file.read(), growing=growing):
            consumed = found.end
            letter = decode(found.payload)
            if found.number + len(letter.events) > self.next:
                self._read.append((found.number, letter))
        self._file.seek(at + consumed)
        return consumed > 0

    def _open(self, first: int) -> bool:
        if not first:
            return False
        self.close()
        self._file, self._first = (self._folder / f"{first:020d}.seg").open("rb"), first
        return True


class Spool:
    """The writing end: the first free spool of `name` below `root`, and what an earlier service left in it.

    Replicas that share a home take one each: `name-1`, `name-2`, … Raises OSError when its folder cannot be written.
    """

    def __init__(self, root: Path, name: str, topics: Sequence[str], segment_bytes: int = SEGMENT_BYTES) -> None:
        self._segment_bytes = segment_bytes
        self._file = -1
        root.mkdir(parents=True, exist_ok=True)
        for slot in count(1):
            self.folder = root / f"{name}-{slot}"
            self.folder.mkdir(exist_ok=True)
            held = lock(self.folder / WRITER_LOCK)
            if held is not None:
                self._lock = held
                break
        before = meta(self.folder)
        known = before is not None and (checkpoint(self.folder) is not None or bool(segments(self.folder)))
        identity = before.id if before is not None and known else token_hex(8)
        merged = dict.fromkeys([*topics, *(before.topics if before else [])])
        self.meta = Meta(identity, list(merged), token_hex(8))
        replace(self.folder / META, self.meta)
        self.next = end(self.folder)
        self._begin()

    def append(self, *letters: tuple[bytes, int]) -> None:
        """Writes letters, each with the number of its events, at once.

        Raises OSError, and leaves nothing behind, if they cannot be written.
        """
        if self._size >= self._segment_bytes or self._file < 0:
            self._begin()
        following, parts = self.next, []
        for payload, events in letters:
            parts.append(frame(following, payload))
            following += events
        data = b"".join(parts)
        try:
            written = os.write(self._file, data)
            if written < len(data):
                raise OSError(f"only {written} of {len(data)} bytes were written to {self.folder}")
        except OSError:
            self._undo()
            raise
        self._size += written
        self.next = following

    def roll(self) -> None:
        """Closes a segment that was begun long ago. Raises OSError if there is no room for another."""
        if self._size and time.monotonic() - self._begun_s > SEGMENT_S:
            self._begin()

    def close(self) -> None:
        """Gives the spool up; another service may take it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.close()

    def _begin(self) -> None:
        """Goes on in a new segment."""
        path = self.folder / f"{self.next:020d}.seg"
        # One of that name holds no whole letter.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size, self._begun_s = file, 0, time.monotonic()

    def _undo(self) -> None:
        try:
            os.ftruncate(self._file, self._size)
        except OSError:  # then the rest of this segment is left alone; what is cut short is no letter
            os.close(self._file)
            self._file = -1
