"""Events on their way from a service to the event log, without the request ever waiting for a broker.

    request ──put──► bounded queue ──► one thread: EventProducer.send ──► acknowledged, or counted as lost

    outbox.put({"fraud.transactions": payment, "fraud.decisions": decision}, key="c-12", trace="4bf92f35")

The thread connects when a broker is there, however late, and makes its producer anew when a broker refuses an event:
one that was restarted and forgot everything no longer knows the old producer. What could not be written within the
producer's delivery time is counted and not sent again, since it may have been written after all.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from msgspec import Struct
from prometheus_client import Counter, Gauge

from whiteboard.errors import WhiteboardError
from whiteboard.eventlog import EventProducer
from whiteboard.settings import Settings

log = logging.getLogger("whiteboard")

LOST = Counter("whiteboard_outbox_lost", "events that could not be written to the event log", ["topic"])
WAITING = Gauge("whiteboard_outbox_waiting", "events not yet acknowledged by the event log")

CAPACITY = 20_000  # events in memory: half a minute at full load
LINGER_S = 0.002  # let some more gather: waking a thread for each request costs as much as reading its features
IDLE_S = 0.5  # how often an idle thread looks around
STALLED_S = 5.0  # ten times what an acknowledgement takes on a bad day


class _Letter(NamedTuple):
    events: Mapping[str, Struct]  # by topic
    key: str
    trace: str


class Outbox:
    """A bounded queue and the thread that empties it into the event log. Safe to share between threads.

    Losses are counted by topic; for `topics` from zero, so that Prometheus sees the first one too.
    """

    def __init__(
        self,
        settings: Settings,
        client_id: str,
        schemas: Mapping[str, type[Struct]],
        *,
        topics: Sequence[str] = (),
        capacity: int = CAPACITY,
        connect: Callable[[], EventProducer] | None = None,
    ) -> None:
        self._connect = connect or (lambda: EventProducer(settings, client_id, schemas))
        self._capacity = capacity
        self._queue: queue.SimpleQueue[_Letter | None] = queue.SimpleQueue()
        self._producer: EventProducer | None = None
        self._lock = threading.Lock()
        self._waiting = 0
        self._moved = time.monotonic()  # when an event was last acknowledged, or none was waiting
        self._refused = False
        self._closing = False
        self._problem = "no broker has answered yet"
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        WAITING.set_function(lambda: self._waiting)
        for topic in topics:
            LOST.labels(topic)

    def start(self) -> None:
        """Starts the thread; what was put before is sent too."""
        self._thread.start()

    def put(self, events: Mapping[str, Struct], *, key: str, trace: str = "") -> bool:
        """Takes events by topic, to be sent in the order of the puts; False, counted as lost, when there is no room."""
        with self._lock:
            if self._waiting + len(events) > self._capacity or self._closing:
                for topic in events:
                    LOST.labels(topic).inc()
                return False
            if self._waiting == 0:
                self._moved = time.monotonic()
            self._waiting += len(events)
        self._queue.put(_Letter(events, key, trace))
        return True

    @property
    def problem(self) -> str:
        """Why events are not getting through right now; empty when they are."""
        if self._producer is None or self._refused:
            return self._problem
        if self._waiting and time.monotonic() - self._moved > STALLED_S:
            return f"{self._waiting} events wait for their acknowledgement"
        return ""

    def close(self, timeout_s: float = 10.0) -> None:
        """Sends what still waits, for at most `timeout_s`; what is left then is logged as lost."""
        with self._lock:
            self._closing = True
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout_s)
        if self._waiting:
            log.error("events were not sent before closing", extra={"unsent": self._waiting})

    def _run(self) -> None:
        while True:
            if self._refused and self._producer is not None:
                self._producer.close()
                self._producer = None
            if self._producer is None and not self._connected():
                if self._closing:
                    return
                time.sleep(IDLE_S)
                continue
            with suppress(queue.Empty):
                letter = self._queue.get(timeout=IDLE_S)
                if letter is None:
                    break
                for topic, event in letter.events.items():
                    self._send(topic, event, letter)
                if self._queue.empty():
                    time.sleep(LINGER_S)
        if self._producer is not None:
            self._producer.close()

    def _connected(self) -> bool:
        try:
            self._producer = self._connect()
        except (WhiteboardError, OSError, ValueError) as error:  # the last two: an address that cannot be one
            self._problem = str(error)
            return False
        self._refused = False
        log.info("outbox connected", extra={"waiting": self._waiting})
        return True

    def _send(self, topic: str, event: Struct, letter: _Letter) -> None:
        assert self._producer is not None
        try:
            sent = self._producer.send(topic, event, key=letter.key, trace=letter.trace)
        except Exception as error:  # whatever the client raises, the next event must have its chance
            self._done(topic, letter.trace, error)
        else:
            sent.add_both(lambda outcome: self._done(topic, letter.trace, outcome))

    def _done(self, topic: str, trace: str, outcome: object) -> None:  # in the client's sender thread, or in ours
        with self._lock:
            self._waiting -= 1
            self._moved = time.monotonic()
        if not isinstance(outcome, BaseException):
            return
        LOST.labels(topic).inc()
        if not self._refused:  # one line an outage, not one an event
            log.error("event lost", extra={"topic": topic, "trace": trace, "error": repr(outcome)})
        self._problem, self._refused = repr(outcome), True
