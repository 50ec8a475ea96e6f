"""A simulated clock, and what is due by it: the part of live traffic that every system has.

    with EventProducer(settings, "traffic", SCHEMAS) as producer:
        FraudTraffic(settings, client, speed=288).run(producer, stop)

The clock never overtakes the real one: once it has caught up, a second is a second.
"""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import pandas as pd
from prometheus_client import Counter, Gauge, Histogram

from whiteboard.errors import EventLogUnavailableError
from whiteboard.eventlog import EventProducer
from whiteboard.telemetry import BEAT, READY

log = logging.getLogger("traffic")

REQUESTS = Counter("whiteboard_traffic_requests", "requests sent, by what became of them", ["system", "outcome"])
EVENTS = Counter("whiteboard_traffic_events", "events sent beside the requests", ["system", "topic"])
CLOCK = Gauge("whiteboard_traffic_clock_timestamp_seconds", "the simulated clock, as Unix time", ["system"])
REQUEST_SECONDS = Histogram(
    "whiteboard_traffic_request_seconds",
    "time of a request as the client sees it",
    ["system"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)

TICK_S = 0.2  # between two looks at what is due
LONGEST_STEP_S = 1.0  # after a stall the clock goes on from where it stood: no burst makes up for it
REPORT_S = 30.0


class Traffic(ABC):
    """A world's future, sent as it becomes due; `clock` is the simulated time, which begins where the lake ends."""

    system: str
    clock: pd.Timestamp

    def __init__(self, speed: float) -> None:
        self._speed = speed

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether nothing is left to send."""

    @abstractmethod
    def tick(self, producer: EventProducer) -> None:
        """Sends what is due by the clock. Raises EventLogUnavailableError if events could not be sent; they wait."""

    def run(self, producer: EventProducer, stop: threading.Event) -> None:
        """Sends what is due until `stop` is set or the world ends."""
        READY.set(1)
        before = reported = time.monotonic()
        while not stop.is_set() and not self.ended:
            now = time.monotonic()
            self.advance(min(now - before, LONGEST_STEP_S))
            before = now
            BEAT.set_to_current_time()
            try:
                self.tick(producer)
            except EventLogUnavailableError as error:
                log.warning("events wait", extra={"error": str(error)})
            if now - reported > REPORT_S:
                reported = now
                log.info("clock", extra={"simulated": self.clock.isoformat()})
            stop.wait(TICK_S)
        log.info("the world has ended" if self.ended else "stopped", extra={"clock": self.clock.isoformat()})

    def advance(self, seconds: float) -> None:
        """Lets `seconds` of real time pass on the simulated clock, not beyond the real one."""
        self.clock = min(self.clock + pd.Timedelta(seconds=seconds * self._speed), pd.Timestamp.now("UTC"))
        CLOCK.labels(self.system).set(self.clock.timestamp())

    def answered(self, latencies_ms: Sequence[float], failures: Sequence[str]) -> None:
        """Counts what every system's answers have: time, and requests that failed."""
        for latency_ms in latencies_ms:
            REQUEST_SECONDS.labels(self.system).observe(latency_ms / 1000)
        REQUESTS.labels(self.system, "failed").inc(len(failures))
        for failure in failures:
            log.warning("request failed", extra={"failure": failure})
