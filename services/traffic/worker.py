"""Live traffic for a stack that is kept: the world's payments over HTTP, and their labels days later through Kafka.

    python -m services.traffic.worker --url http://127.0.0.1:8001 --speed 288

At speed 288 a simulated day passes in five minutes. The simulated clock never overtakes the real one: once it has
caught up, a second is a second. After a restart it goes on where the lake says that decisions end; no state of its own.
"""

import logging
import signal
import threading
import time
from typing import Annotated
from urllib.parse import urlsplit

import pandas as pd
import typer
from prometheus_client import Counter, Gauge, Histogram

from whiteboard.errors import EventLogUnavailableError
from whiteboard.eventlog import EventProducer
from whiteboard.fraud.events import DECISIONS, SCHEMAS, Decision
from whiteboard.fraud.ingest import send_label
from whiteboard.fraud.live import LiveWorld
from whiteboard.fraud.traffic import Answers, DecisionClient
from whiteboard.fraud.world import labels_for
from whiteboard.lake import Lake, connect
from whiteboard.logs import configure_logging
from whiteboard.settings import Settings
from whiteboard.telemetry import BEAT, READY, serve_metrics

log = logging.getLogger("traffic")

PAYMENTS = Counter("whiteboard_traffic_payments", "payments sent, by what became of them", ["outcome"])
LABELS_SENT = Counter("whiteboard_traffic_labels", "labels sent")
CLOCK = Gauge("whiteboard_traffic_clock_timestamp_seconds", "the simulated clock, as Unix time")
REQUEST_SECONDS = Histogram(
    "whiteboard_traffic_request_seconds",
    "time of a request as the client sees it",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)

TICK_S = 0.2  # between two looks at what is due
LONGEST_STEP_S = 1.0  # after a stall the clock goes on from where it stood: no burst makes up for it
REPORT_S = 30.0
RESENT = pd.Timedelta(hours=1)  # before the last decision: what failed then, or was cut off by the end of the process
COLUMNS = ["transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount"]


class Traffic:
    """The world's future, sent as it becomes due."""

    def __init__(self, settings: Settings, client: DecisionClient, speed: float) -> None:
        live, lake = LiveWorld.of(settings), Lake(settings.lake_dir)
        self._settings, self._client, self._speed = settings, client, speed
        self._world = live.world.transactions
        self._labels = live.waiting_labels(lake)
        decided = _decided(lake)
        self._payments = live.coming[~live.coming["transaction_id"].isin(decided["transaction_id"])]
        known = self._world["created_timestamp"][self._world["transaction_id"].isin(decided["transaction_id"])]
        self.clock = max(live.begins, known.max()) if len(known) else live.begins
        self._payments = self._payments[self._payments["created_timestamp"] >= self.clock - RESENT]

    def run(self, stop: threading.Event) -> None:
        """Sends what is due until `stop` is set or the world ends."""
        with EventProducer(self._settings, "traffic", SCHEMAS) as producer:
            READY.set(1)
            before = reported = time.monotonic()
            while not stop.is_set() and not self._payments.empty:
                now = time.monotonic()
                self.advance(min(now - before, LONGEST_STEP_S))
                before = now
                BEAT.set_to_current_time()
                try:
                    self.send_due(producer)
                except EventLogUnavailableError as error:
                    log.warning("labels wait", extra={"error": str(error)})
                if now - reported > REPORT_S:
                    reported = now
                    log.info("clock", extra={"simulated": self.clock.isoformat(), "payments_left": len(self._payments)})
                stop.wait(TICK_S)
        log.info("the world has ended" if self._payments.empty else "stopped", extra={"clock": self.clock.isoformat()})

    def advance(self, seconds: float) -> None:
        """Lets `seconds` of real time pass on the simulated clock, not beyond the real one."""
        self.clock = min(self.clock + pd.Timedelta(seconds=seconds * self._speed), pd.Timestamp.now("UTC"))
        CLOCK.set(self.clock.timestamp())

    def send_due(self, producer: EventProducer) -> Answers:
        """Sends the labels, then the payments, that are due by the clock; the answers to the payments."""
        labels = self._labels[self._labels["event_timestamp"] < self.clock]
        for row in labels.to_dict("records"):
            send_label(producer, {str(k): v for k, v in row.items()}, created_us=time.time_ns() // 1000)
        producer.flush()
        self._labels = self._labels.iloc[len(labels) :]
        LABELS_SENT.inc(len(labels))

        due = self._payments[self._payments["created_timestamp"] < self.clock]
        self._payments = self._payments.iloc[len(due) :]
        answers = self._client.score(
            [
                {str(k): v for k, v in row.items()} | {"event_timestamp": row["event_timestamp"].isoformat()}
                for row in due[COLUMNS].to_dict("records")
            ]
        )
        for latency_ms in answers.latencies_ms:
            REQUEST_SECONDS.observe(latency_ms / 1000)
        PAYMENTS.labels("failed").inc(len(answers.failures))
        for failure in answers.failures:
            log.warning("payment failed", extra={"failure": failure})
        self._expect_labels(due, answers)
        return answers

    def _expect_labels(self, due: pd.DataFrame, answers: Answers) -> None:
        for decision in answers.decisions:
            PAYMENTS.labels(decision["decision"]).inc()
        if not answers.decisions:
            return
        decided = pd.DataFrame(answers.decisions)[["transaction_id", "decision"]].merge(
            due[["transaction_id", "event_timestamp"]], on="transaction_id"
        )
        labels = pd.concat([self._labels, labels_for(due, decided)])
        self._labels = labels.sort_values("event_timestamp", kind="stable")


def _decided(lake: Lake) -> pd.DataFrame:
    with connect() as connection:
        ids: pd.DataFrame = connection.sql(
            f"SELECT DISTINCT transaction_id FROM {lake.relation(DECISIONS, Decision)}"
        ).df()
    return ids


def main(
    url: Annotated[str, typer.Option(help="of the fraud service, or of what stands in front of it")],
    speed: Annotated[float, typer.Option(min=1, help="simulated seconds a second")] = 288.0,
    connections: Annotated[int, typer.Option(min=1, help="side by side; a card's payments share one")] = 4,
    metrics_port: Annotated[int, typer.Option(help="Prometheus metrics on this port; 0: none")] = 9103,
    host: Annotated[str, typer.Option(help="address of the metrics port")] = "127.0.0.1",
) -> None:
    """Sends traffic until SIGTERM."""
    configure_logging("traffic")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    target = urlsplit(url)
    serve_metrics(metrics_port, host)
    with DecisionClient(target.port or 80, host=target.hostname or "", connections=connections) as client:
        Traffic(Settings(), client, speed).run(stop)


if __name__ == "__main__":
    typer.run(main)
