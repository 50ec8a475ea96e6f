"""Events on their way from a service to the event log: on the disk before the request is answered, sent by a process.

    request ──put──► spool (HOME/spool/<name>-N/, one write) ──► forwarder, its own process ──► event log

    outbox.put({"fraud.transactions": payment, "fraud.decisions": decision}, key="c-12", trace="4bf92f35")    # True

What `put` took survives the death of the service, of the forwarder and of the broker, and a broker that forgets; not a
loss of power within the seconds until the system has written it to the disk. What it did not take, because the spool is
full, the service must not have promised: it answers 503.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import Struct
from prometheus_client import Counter, Gauge

from whiteboard.errors import EventError
from whiteboard.settings import Settings
from whiteboard.spool import (
    SEGMENT_BYTES,
    Checkpoint,
    Envelope,
    Letter,
    Spool,
    checkpoint,
    letters,
    segments,
    waiting_bytes,
)

log = logging.getLogger("whiteboard")

S = TypeVar("S", bound=Struct)

LOST = Counter("whiteboard_outbox_lost", "events that can never be written to the event log", ["topic"])
REFUSED = Counter(
    "whiteboard_outbox_refused", "events that a full spool did not take; their client was told so", ["topic"]
)
WAITING = Gauge("whiteboard_outbox_waiting", "events not yet acknowledged by the event log")
WAITING_BYTES = Gauge("whiteboard_outbox_waiting_bytes", "size of the spool's files that hold such events")
LIMIT_BYTES = Gauge("whiteboard_outbox_limit_bytes", "what that may grow to; beyond it events are refused")

LOOK_S = 0.25  # between two looks at what the forwarder has done
RESTART_S = 1.0
STALLED_S = 5.0  # ten times what an acknowledgement takes on a bad day


class Parcel(NamedTuple):
    """The events of one request, by topic; `key` decides on their partition."""

    events: Mapping[str, Struct]
    key: str
    trace: str = ""


class Outbox:
    """A bounded spool, and the forwarder that empties it into the event log. Safe to share between threads.

    What is lost and refused is counted by topic; for `topics` from zero, so that Prometheus sees the first one too.
    Without a forwarder, as in tests, everything stays in the spool.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        schemas: Mapping[str, type[Struct]],
        *,
        topics: Sequence[str] = (),
        forwarder: bool = True,
    ) -> None:
        self._settings, self._name, self._topics = settings, name, topics
        self._schemas = {event_type: schema for schema, event_type in schemas.items()}
        self._value = msgspec.json.Encoder().encode
        self._letter = msgspec.msgpack.Encoder().encode
        self._limit = settings.spool_mb * 1024**2
        self._lock = threading.Lock()
        self._spool: Spool | None = None
        self._written = self._bytes = 0  # since the start; of what waits
        self._full = ""
        self._point = Checkpoint()
        self._moved = time.monotonic()  # when an event was last acknowledged, or none was waiting
        self._closing = threading.Event()
        self._forwarder: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True) if forwarder else None
        WAITING.set_function(lambda: self.waiting)
        WAITING_BYTES.set_function(lambda: self._bytes)
        LIMIT_BYTES.set(self._limit)
        for topic in topics:
            LOST.labels(topic)
            REFUSED.labels(topic)

    def start(self) -> None:
        """Takes a spool and starts its forwarder; what an earlier service left there is sent too."""
        try:
            with self._lock:
                self._open()
        except OSError as error:  # a full disk is no reason not to start
            self._full = str(error)
            log.error("no spool", extra={"reason": self._full})
        if self._thread is not None:
            self._thread.start()

    def put(self, events: Mapping[str, Struct], *, key: str, trace: str = "") -> bool:
        """Takes the events of one request, by topic, as `put_all` does."""
        return self.put_all([Parcel(events, key, trace)])

    def put_all(self, parcels: Sequence[Parcel]) -> bool:
        """Takes parcels, to be sent in the order of the puts, in one write; False, and none is taken, without room.

        Raises EventError for an event without a schema.
        """
        letters = [(self._letter(self._letter_of(parcel)), len(parcel.events)) for parcel in parcels]
        with self._lock:
            taken = not self._closing.is_set() and self._write(letters)
        if not taken:
            for topic in (topic for parcel in parcels for topic in parcel.events):
                REFUSED.labels(topic).inc()
        return taken

    def _letter_of(self, parcel: Parcel) -> Letter:
        events, key, trace = parcel
        try:
            envelopes = [Envelope(topic, self._schemas[type(e)], self._value(e)) for topic, e in events.items()]
        except KeyError as error:
            raise EventError(f"{error} has no schema here; there is {', '.join(self._schemas.values())}") from error
        return Letter(key, trace, envelopes)

    def _write(self, letters: Sequence[tuple[bytes, int]]) -> bool:
        size = sum([len(letter) for letter, _ in letters])
        if self._bytes + size > self._limit:
            return self._refuse(f"{self._bytes / 1e6:.0f} MB wait for the event log, WHITEBOARD_SPOOL_MB are allowed")
        try:
            self._open().append(*letters)
        except OSError as error:
            return self._refuse(str(error))
        self._bytes += size
        self._written += size
        if self._full:
            log.info("spool takes events again")
            self._full = ""
        return True

    def _refuse(self, reason: str) -> bool:
        if not self._full:  # one line an outage, not one an event
            log.error("spool full", extra={"reason": reason})
        self._full = reason
        return False

    def _open(self) -> Spool:
        if self._spool is None:
            segment_bytes = min(SEGMENT_BYTES, self._limit // 8)
            self._spool = Spool(self._settings.spool_dir, self._name, self._topics, segment_bytes)
            self._point = checkpoint(self._spool.folder) or Checkpoint()
            self._look()
        return self._spool

    def kept(self, topic: str, kind: type[S]) -> Iterator[S]:
        """The events of `topic` that the spools of this name still hold, oldest first in each: what no lake has yet.

        Those of other replicas are among them, dead or alive.
        """
        decode = msgspec.json.Decoder(kind).decode
        for folder in sorted(self._settings.spool_dir.glob(f"{self._name}-*")):
            for segment in segments(folder):
                with suppress(FileNotFoundError):  # by now the lake has it
                    for _, letter in letters(segment):
                        yield from (decode(event.value) for event in letter.events if event.topic == topic)

    @property
    def waiting(self) -> int:
        """How many events are not acknowledged yet."""
        return 0 if self._spool is None else max(0, self._spool.next - self._point.next)

    @property
    def problem(self) -> str:
        """Why events are not getting through right now; empty when they are."""
        if self._full:
            return f"the spool takes no events: {self._full}"
        if self._spool is None or self._point.writer != self._spool.meta.writer:
            return Checkpoint().problem  # our forwarder has not spoken yet
        if self._point.problem:
            return self._point.problem
        if self.waiting and time.monotonic() - self._moved > STALLED_S:
            return f"{self.waiting} events wait for their acknowledgement"
        return ""

    def close(self, timeout_s: float = 10.0) -> None:
        """Sends what still waits, for at most `timeout_s`; what is left then stays in the spool for the next start."""
        with self._lock:
            self._closing.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(timeout_s)
        if (child := self._forwarder) is not None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout_s)
            child.kill()  # it may be killed at any moment
            child.wait()
        if self._spool is not None:
            self._look()
            if self.waiting:
                log.warning("events stay in the spool", extra={"waiting": self.waiting})
            self._spool.close()

    def _run(self) -> None:
        self._forward()
        started = time.monotonic()
        while not self._closing.wait(LOOK_S):
            child = self._forwarder
            if child is not None and child.poll() is not None:
                log.error("forwarder ended", extra={"code": child.returncode})
                self._forwarder = None
            if self._forwarder is None and time.monotonic() - started > RESTART_S:
                started = time.monotonic()
                self._forward()
            self._look()
            self._roll()
        if self._forwarder is not None and self._forwarder.stdin is not None:
            self._forwarder.stdin.close()  # tells it that nothing more comes

    def _forward(self) -> None:
        try:
            with self._lock:
                spool = self._open()
            command = [sys.executable, "-m", "whiteboard.forwarder", str(spool.folder), "--writer", spool.meta.writer]
            environment = os.environ | self._settings.environment()
            self._forwarder = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        except OSError as error:
            log.error("forwarder not started", extra={"reason": str(error)})

    def _roll(self) -> None:
        with self._lock, suppress(OSError):  # the next letter that needs another file will tell
            if self._spool is not None:
                self._spool.roll()

    def _look(self) -> None:
        """Takes notice of what the forwarder has done."""
        if self._spool is None:
            return
        written = self._written
        point = checkpoint(self._spool.folder)
        if point is None:
            return
        for topic, lost in point.lost.items():
            LOST.labels(topic).inc(max(0, lost - self._point.lost.get(topic, 0)))
        if point.next != self._point.next or point.next >= self._spool.next:
            self._moved = time.monotonic()
        self._point = point
        size = waiting_bytes(self._spool.folder, point.next) if self.waiting else 0
        self._bytes = size + self._written - written
