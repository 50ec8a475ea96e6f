"""The stream worker: consumes the log, folds features, re-keys, pushes to Feast, and sinks to the Parquet lake.

    python -m services.stream.worker --system fraud --metrics-port 9101

A worker works for one system; any number of them share its partitions as one consumer group. What was read is committed
only when its rows are in the online store, its re-keyed copies are acknowledged and its lake files are committed;
killed anywhere before that, a worker's events are read again by another, and offsets in rows and file names make the
second time change nothing.

An event that came with a trace leaves a line when its effect is in the online store:

    {"process": "stream", "message": "pushed", "trace": "4bf92f35", "topic": "fraud.transactions", "partition": 2,
     "offset": 17, "view": "fraud_customer", "entity": "p-ebd70d27f8429fdccd068b19", …}
"""

import logging
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from operator import attrgetter
from typing import Annotated

import typer
from prometheus_client import Counter, Gauge, Histogram

from whiteboard.erasures import Erasures
from whiteboard.errors import EventLogUnavailableError, WhiteboardError
from whiteboard.eventlog import Batch, EventConsumer, EventProducer, log_ids
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.privacy import CUSTOMER
from whiteboard.fraud.routes import ROUTES as FRAUD
from whiteboard.lake import Lake
from whiteboard.lakesink import LakeSink
from whiteboard.logs import configure_logging, logged, tell
from whiteboard.processes import collect_rarely, give_way
from whiteboard.pseudonyms import pseudonyms
from whiteboard.recommendation.privacy import USER
from whiteboard.recommendation.routes import ROUTES as RECOMMENDATION
from whiteboard.records import Record
from whiteboard.settings import Settings
from whiteboard.streams import EntityRows, Route, Routes, rebuild_if_log_is_new
from whiteboard.telemetry import BEAT, READY, serve_metrics

log = logging.getLogger("stream")

SUBJECTS = {FRAUD.system: CUSTOMER, RECOMMENDATION.system: USER}
SYSTEMS = {routes.system: routes for routes in (FRAUD, RECOMMENDATION)}

EVENTS = Counter("whiteboard_stream_events", "events folded, sunk or re-keyed", ["topic"])
LAG = Gauge("whiteboard_stream_lag", "records in the log that are not yet folded", ["topic", "partition"])
REPLAYED = Counter("whiteboard_stream_replayed", "events that their row already held", ["topic"])
POSITION = Gauge(
    "whiteboard_stream_position", "next offset whose effects are in the online store", ["topic", "partition"]
)
DEAD = Counter("whiteboard_stream_dead_letters", "records that could not be decoded", ["topic"])
ROWS_PUSHED = Counter("whiteboard_stream_rows_pushed", "entity rows pushed to the online store", ["view"])
PUSH_SECONDS = Histogram("whiteboard_stream_push_seconds", "time of one push to the online store", ["view"])
BATCH_SECONDS = Histogram(
    "whiteboard_stream_batch_seconds", "time from a poll's return until its rows are pushed", ["system"]
)
FRESHNESS_SECONDS = Histogram(
    "whiteboard_stream_freshness_seconds",
    "time from a live event's way into the log until its row is in the online store",
    ["view"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)

# A poll; bounds memory (30 MB) and how long features wait behind a backlog (a second or two). Rows are read and pushed
# once a poll however many of its events are theirs: larger polls cost less.
MAX_RECORDS = 20_000
REKEYING_LINGER_MS = 100  # nothing waits for so long: every batch ends in a flush
IDLE_POLL_S = 0.05
# Between two polls, on the average. One costs 2 ms of CPU here, and requests to the broker, be it for one event or for
# a hundred; when some hundred events a second are taken as they come, a fifth of the CPU goes into that.
PACE_S = 0.02
# Of the pauses that were not needed so much may be saved up: who comes after a silence is not kept waiting.
UNUSED_S = 0.1
LOG_CHECK_S = 5.0
LAG_S = 5.0  # Prometheus asks as often
REPORT_S = 5.0


class LogReplacedError(WhiteboardError):
    """The event log was lost and begun anew while the worker ran; a restart rebuilds the rows from the lake."""


class StreamWorker:
    """One member of the consumer group, for one system."""

    def __init__(self, settings: Settings, routes: Routes) -> None:
        self._settings, self._routes = settings, routes
        self._lake = Lake(settings.lake_dir)
        store = FeatureStore(settings)
        self._log_ids = log_ids(settings, routes.topics)
        if rebuild_if_log_is_new(routes, self._lake, store, self._log_ids):
            log.info("rows rebuilt from the lake")
        self._epochs = {topic: self._lake.epoch(topic, log_id) for topic, log_id in self._log_ids.items()}
        self._rows = {r.view: EntityRows(store.states(r.view), r.fold) for r in routes.folded}
        self._erasures = Erasures(settings, routes.system, SUBJECTS[routes.system])
        self._sink = LakeSink(self._lake, self._epochs, routes.sunk, cleared=self._erasures.cleared)
        self._producer = EventProducer(settings, "stream", routes.schemas, linger_ms=REKEYING_LINGER_MS)
        self._pushed: dict[tuple[str, int], int] = {}  # positions whose rows and re-keyed copies are out
        self._owned: set[tuple[str, int]] = set()
        self._consumer = EventConsumer(
            settings,
            routes.topics,
            group_of(routes.system, max(self._epochs.values())),
            routes.schemas,
            on_assigned=self._assigned,
            on_revoked=self._revoked,
        )
        for topic in routes.topics:  # from zero: an increase is seen only in what was there before
            EVENTS.labels(topic)
            DEAD.labels(topic)
        for route in routes.folded:
            REPLAYED.labels(route.topic)

    def run(self, stop: threading.Event) -> None:
        """Works until `stop` is set, then commits what it has done."""
        READY.set(1)
        checked = reported = measured = due = time.monotonic()
        events = 0
        while not stop.is_set():
            BEAT.set_to_current_time()
            batch = self._consumer.poll(timeout_s=IDLE_POLL_S, max_records=MAX_RECORDS)
            polled = time.monotonic()
            if batch.positions:
                with BATCH_SECONDS.labels(self._routes.system).time(), self._nobody_erased():
                    self._process(replace(batch, records=self._erasures.cleared(batch.records)))
                events += len(batch.records)
            if self._sink.due():
                self._commit()
            now = time.monotonic()
            if now - checked > LOG_CHECK_S:
                checked = now
                self._check_log()
            if now - measured > LAG_S:
                measured = now
                self._measure_lag()
            if now - reported > REPORT_S and events:
                log.info("throughput", extra={"events_per_s": round(events / (now - reported)), "events": events})
                reported, events = now, 0
            due = max(due, polled - UNUSED_S) + PACE_S
            stop.wait(due - time.monotonic())
        self._commit()

    def close(self) -> None:
        """Leaves the group, so that another worker takes over at once."""
        self._consumer.close()
        self._producer.close()

    def _process(self, batch: Batch) -> None:
        by_topic: dict[str, list[Record]] = defaultdict(list)
        for record in batch.records:
            by_topic[record.topic].append(record)
        for topic in by_topic.keys() & self._routes.rekeyed.keys():
            self._rekey(topic, by_topic[topic])
        for route in self._routes.folded:
            self._fold(route, by_topic.get(route.topic, []))
        for topic, records in by_topic.items():
            EVENTS.labels(topic).inc(len(records))
            if topic in self._routes.sunk:
                self._sink.add(records)
        for topic, count in batch.dead.items():
            DEAD.labels(topic).inc(count)
        for (topic, partition), position in batch.positions.items():
            if topic in self._routes.sunk:
                self._sink.advance(topic, partition, position)
        self._producer.flush()
        self._pushed.update(batch.positions)
        for (topic, partition), position in batch.positions.items():
            POSITION.labels(topic, str(partition)).set(position)

    def _fold(self, route: Route, records: list[Record]) -> None:
        if not records:
            return
        rows, key_of = self._rows[route.view], attrgetter(route.key)
        entities = [key_of(record.event) for record in records]
        rows.load(set(entities))
        live: list[tuple[str, Record]] = []
        for entity, record in zip(entities, records, strict=True):
            topic, epoch, partition, offset = self._source(record)
            if not rows.fold(entity, record.event, topic, epoch, partition, offset):
                REPLAYED.labels(record.topic).inc()
            elif record.trace:
                live.append((entity, record))
        with PUSH_SECONDS.labels(route.view).time():
            ROWS_PUSHED.labels(route.view).inc(rows.push())
        self._tell(route.view, live)

    def _tell(self, view: str, live: list[tuple[str, Record]]) -> None:
        """Measures and logs that these entities' events are in the online store now."""
        now_s = time.time()
        freshness, lines = FRESHNESS_SECONDS.labels(view), []
        for entity, record in live:
            freshness.observe(now_s - record.created_us / 1e6)
            if logged(record.trace, self._settings.trace_log_share):
                at = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
                lines.append({"trace": record.trace, **at, "view": view, "entity": entity})
        tell(log, "pushed", *lines)

    def _source(self, record: Record) -> tuple[str, int, int, int]:
        """Where the event was first written: a re-keyed record says so in its headers."""
        return record.source or (record.topic, self._epochs[record.topic], record.partition, record.offset)

    def _rekey(self, source: str, records: list[Record]) -> None:
        topic, field = self._routes.rekeyed[source]
        key_of, log = attrgetter(field), f"{source}/{self._epochs[source]}"
        for record in records:
            self._producer.send(
                topic,
                record.event,
                key=key_of(record.event),
                schema=record.schema,
                created_us=record.created_us,
                trace=record.trace,
                headers={"source": f"{log}/{record.partition}/{record.offset}".encode()},
            )

    @contextmanager
    def _nobody_erased(self) -> Iterator[None]:
        """Within it nobody is erased; of those who were before, no row is left in memory."""
        with self._erasures.held() as changed:
            if changed:
                self._forget_rows()
            yield

    def _commit(self) -> None:
        with self._nobody_erased():
            self._sink.flush()
        if self._pushed:
            try:
                self._consumer.commit(self._pushed)
            except EventLogUnavailableError as error:  # they are hints, and are left the next time
                log.warning("positions not committed", extra={"reason": str(error)})
                return
            self._pushed = {}

    def _assigned(self, partitions: set[tuple[str, int]]) -> None:
        self._owned |= partitions
        for topic, partition in partitions:
            if topic in self._routes.sunk:
                self._sink.assign(topic, partition)
        log.info("assigned", extra={"partitions": sorted(f"{t}-{p}" for t, p in partitions)})

    def _revoked(self, partitions: set[tuple[str, int]]) -> None:
        self._owned -= partitions
        self._commit()
        for topic, partition in partitions:
            LAG.remove(topic, str(partition))  # its next owner's to tell
            if topic in self._routes.sunk:
                self._sink.revoke(topic, partition)
        self._forget_rows()

    def _forget_rows(self) -> None:
        for rows in self._rows.values():
            rows.forget()

    def _measure_lag(self) -> None:
        try:
            lag = self._consumer.lag()
        except EventLogUnavailableError:  # unknown for now; no reason to stop
            return
        for (topic, partition), records in lag.items():
            if (topic, partition) in self._owned:  # the client knows a revoked one until the group has settled
                LAG.labels(topic, str(partition)).set(records)

    def _check_log(self) -> None:
        try:
            present = log_ids(self._settings, self._routes.topics)
        except EventLogUnavailableError as error:
            if error.__cause__ is None:  # a broker answers, and a topic is gone
                raise
            return
        if present != self._log_ids:
            changed = sorted(t for t in present if present[t] != self._log_ids.get(t))
            raise LogReplacedError(f"the event log was begun anew ({', '.join(changed)}); restart the worker")


def group_of(system: str, epoch: int) -> str:
    """The consumer group of a system's workers on its `epoch`-th log.

    A log that was begun anew gets another group: workers of the old log join theirs before they notice and die, and the
    embedded broker would have the others wait for them.

    >>> group_of("fraud", 0), group_of("fraud", 2)
    ('stream-fraud', 'stream-fraud-2')
    """
    return f"stream-{system}-{epoch}" if epoch else f"stream-{system}"


def main(
    system: Annotated[str, typer.Option(help=f"one of {', '.join(SYSTEMS)}")] = "fraud",
    metrics_port: Annotated[int, typer.Option(help="Prometheus metrics on this port; 0: none")] = 9101,
    host: Annotated[str, typer.Option(help="address of the metrics port")] = "127.0.0.1",
) -> None:
    """Runs one stream worker until SIGTERM."""
    give_way()
    collect_rarely()
    settings = Settings()
    configure_logging("stream", pseudonyms(settings))
    if system not in SYSTEMS:
        raise typer.BadParameter(f"--system: {system!r} is none of {', '.join(SYSTEMS)}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    worker = StreamWorker(settings, SYSTEMS[system])
    serve_metrics(metrics_port, host)
    try:
        worker.run(stop)
    finally:
        worker.close()


if __name__ == "__main__":
    typer.run(main)
