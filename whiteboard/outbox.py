"""Events on their way from a service to the event log, without the request ever waiting for a broker.

    request ──put──► bounded queue ──► one thread: EventProducer.send ──► acknowledged, or counted as lost

    outbox.put("fraud.decisions", decision, key="c-12", trace="4bf92f35")    # 2 µs, whatever the broker does

The thread connects when a broker is there, however late, and makes its producer anew when a broker refuses an event: one
that was restarted and forgot everything no longer knows the old producer. What could not be written within the
producer's delivery time is counted and not sent again, since it may have been written after all.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
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
IDLE_S = 0.5  # how often an idle thread looks around
STALLED_S = 5.0  # ten times what an acknowledgement takes on a bad day


class _Item(NamedTuple):
    topic: str
    event: Struct
    key: str
    trace: str


class Outbox:
    """A bounded queue and the thread that empties it into the event log. Safe to share between threads."""

    def __init__(
        self,
        settings: Settings,
        client_id: str,
        schemas: Mapping[str, type[Struct]],
        *,
        capacity: int = CAPACITY,
        connect: Callable[[], EventProducer] | None = None,
    ) -> None:
        self._connect = connect or (lambda: EventProducer(settings, client_id, schemas))
        self._capacity = capacity
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._producer: EventProducer | None = None
        self._lock = threading.Lock()
        self._waiting = 0
        self._moved = time.monotonic()  # when an event was last acknowledged, or none was waiting
        self._refused = False
        self._closing = False
        self._problem = "no broker has answered yet"
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        WAITING.set_function(lambda: self._waiting)

    def start(self) -> None:
        """Starts the thread; what was put before is sent too."""
        self._thread.start()

    def put(self, topic: str, event: Struct, *, key: str, trace: str = "") -> bool:
        """Takes the event to be sent to `topic` in the order of the puts; False, counted, when there is no room."""
        with self._lock:
            if self._waiting >= self._capacity or self._closing:
                LOST.labels(topic).inc()
                return False
            if self._waiting == 0:
                self._moved = time.monotonic()
            self._waiting += 1
        self._queue.put(_Item(topic, event, key, trace))
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
                item = self._queue.get(timeout=IDLE_S)
                if item is None:
                    break
                self._send(item)
        if self._producer is not None:
            self._producer.close()

    def _connected(self) -> bool:
        try:
            self._producer = self._connect()
        except WhiteboardError as error:
            self._problem = str(error)
            return False
        self._refused = False
        log.info("outbox connected", extra={"waiting": self._waiting})
        return True

    def _send(self, item: _Item) -> None:
        assert self._producer is not None
        try:
            sent = self._producer.send(item.topic, item.event, key=item.key, trace=item.trace)
        except WhiteboardError as error:
            self._done(item, error)
        else:
            sent.add_both(lambda outcome: self._done(item, outcome))

    def _done(self, item: _Item, outcome: object) -> None:  # in the client's sender thread, or in ours
        with self._lock:
            self._waiting -= 1
            self._moved = time.monotonic()
        if not isinstance(outcome, BaseException):
            return
        LOST.labels(item.topic).inc()
        if not self._refused:  # one line an outage, not one an event
            log.error("event lost", extra={"topic": item.topic, "trace": item.trace, "error": repr(outcome)})
        self._problem, self._refused = repr(outcome), True
