"""The fraud system's whole life in minutes, embedded: `whiteboard demo --system fraud`.

History through Kafka → first champion → live days over HTTP while labels trickle in → the fraud pattern changes →
drift is seen → retrain, gates, promotion, hot swap under traffic → quality before, during, after.

Days are simulated and run fast: a real second is some hours. So some hours of payments are sent in waves, in which no
card and no terminal comes twice, and before each wave the demo waits until the stream workers have folded the one
before; otherwise a lag of milliseconds would be hours of the simulated day. Everything else runs as it would: the
numbers at the end are read from what the components wrote.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pandas as pd
from rich.console import Console

from pipelines.fraud import story
from pipelines.fraud.dataset import build
from pipelines.fraud.promote import promote
from pipelines.fraud.train import TrainConfig, train
from whiteboard.demo import Story, Told, drift, events, midnight, parity, percentiles
from whiteboard.embedded import EmbeddedStack
from whiteboard.errors import NotEnoughDataError
from whiteboard.eventlog import EventProducer
from whiteboard.fraud.events import DECISIONS, LABELS, SCHEMAS, SYSTEM, TRANSACTIONS, TRANSACTIONS_BY_TERMINAL
from whiteboard.fraud.ingest import ingest, send_label
from whiteboard.fraud.monitor import FraudMonitor
from whiteboard.fraud.routes import ROUTES
from whiteboard.fraud.traffic import Answers, DecisionClient
from whiteboard.fraud.world import WorldConfig, labels_for, malformed_payloads, simulate
from whiteboard.settings import Settings

CHUNK = pd.Timedelta(hours=6)  # labels are sent at its beginning
START = date(2026, 1, 5)


@dataclass(frozen=True)
class DemoConfig:
    """The scale of the demo; the defaults end within four minutes on two cores."""

    seed: int = 7
    customers: int = 400
    history_days: int = 50
    live_days: int = 18
    shift_after: int = 7  # live days before the fraud pattern changes
    label_delay_days: float = 3.0
    malformed: int = 40
    late_share: float = 0.02
    retrain_wait_days: int = 5  # from the alert until most labels of its day are in
    tuning_s: float = 5.0

    @property
    def shift_day(self) -> int:
        """The day of the world on which the pattern changes."""
        return self.history_days + self.shift_after

    @property
    def first_live_day(self) -> date:
        """The first day that is scored over HTTP."""
        return START + timedelta(days=self.history_days)

    def world(self) -> WorldConfig:
        """The world in which the story happens."""
        return WorldConfig(
            customers=self.customers,
            terminals=2 * self.customers,
            start=START,
            days=self.history_days + self.live_days,
            seed=self.seed,
            label_delay_days=self.label_delay_days,
            label_delay_spread_days=1.0,
            shift_day=self.shift_day,
            late_share=self.late_share,
        )


class Demo(Story):
    """One run of the story."""

    system = SYSTEM

    def __init__(self, settings: Settings, console: Console, config: DemoConfig) -> None:
        super().__init__(settings, console)
        self.config = config
        self.answers = Answers()
        self.trainer = ThreadPoolExecutor(1, thread_name_prefix="pipeline")

    def run(self) -> Told:
        """Lives the story and tells it."""
        with EmbeddedStack(self.settings) as stack:
            with self.stage("start", "Broker, feature store, two workers, service and monitor start"):
                self.start(stack, meanwhile=self._found_world)
            with self.stage("ingest", f"{self.config.history_days} days of history go through Kafka"):
                self._history()
            with self.stage("train", "First model: point-in-time set, training, gates, promotion"):
                self._train_and_promote(self.config.first_live_day, "first model", self._in_lake())
                self.wait_serving("1")
            with (
                DecisionClient(self.service_port, api_key=self.settings.client_key) as client,
                EventProducer(self.settings, "demo", SCHEMAS) as producer,
            ):
                self._live(client, producer)
            with self.stage("settle", "The last events reach the lake and the monitor"):
                self._settle()
            results = self._results()
            return Told("Fraud detection, one life", results, story.rows(results))

    def _results(self) -> dict[str, Any]:
        """Everything that the run's components wrote, as results.json and the report show it."""
        told, config = self.chronicle, self.config
        decided, windows = story.decided(self.settings), self.monitored()
        changed = START + timedelta(days=config.shift_day)
        return {
            "events": events(self.settings, ROUTES, told),
            "decisions": len(self.answers.decisions),
            "failed_requests": len(self.answers.failures),
            "failures": self.answers.failures[:10],
            "parity": parity(windows),
            "latency_ms": percentiles(self.answers.latencies_ms),
            "quality": story.periods(decided, changed, told.promoted_day),
            "drift": drift(windows, changed, told),
            "models": told.models,
            "stream": {"events_per_s": round(told.events_per_s)},
            "seconds": told.seconds,
            "series": {"days": story.days(decided, windows, told.latencies_by_day), "events": told.events},
        }

    def _found_world(self) -> None:
        self.world = simulate(self.config.world())
        self.world.save(self.settings.home / "world" / SYSTEM)

    def _history(self) -> None:
        payments, until = self.world.transactions, midnight(self.config.first_live_day)
        started = time.perf_counter()
        result = ingest(self.settings, payments[payments["created_timestamp"] < until], until=until)
        self.waiting_labels = result.withheld
        self.chronicle.sent(TRANSACTIONS, result.transactions)
        self.chronicle.sent(LABELS, result.labels)
        self.wait_folded()
        self.chronicle.events_per_s = (result.transactions + result.labels) / (time.perf_counter() - started)

    def _train_and_promote(self, day: date, why: str, expected: dict[str, int]) -> bool:
        """Trains on what was sent until now; it need not wait for what is sent meanwhile."""
        self.wait_in_lake(expected)
        began = time.perf_counter()
        config = TrainConfig(seed=self.config.seed, tuning_s=self.config.tuning_s)
        try:
            version = train(self.settings, build(self.settings), config).version
        except NotEnoughDataError as error:  # ask again when more labels are in
            self.console.print(f"[yellow]{day}: not retrained, {error}")
            return False
        verdict = promote(self.settings, version)
        if self.chronicle.models:
            text = "refused by the gates" if not verdict.promoted else "let through by the gates"
            self.chronicle.mark(day, "retrained", f"version {version} trained, {text}")
        self.chronicle.models.append(
            {"version": version, "day": day.isoformat(), "why": why, "seconds": round(time.perf_counter() - began, 1)}
            | verdict.as_dict()
        )
        return verdict.promoted

    def _live(self, client: DecisionClient, producer: EventProducer) -> None:
        """The live days. A retrain runs beside the traffic of the day on which it was asked for."""
        config, started = self.config, time.perf_counter()
        payments = self.world.transactions
        payments = payments[payments["created_timestamp"] >= midnight(config.first_live_day)]
        chunks = payments.groupby(payments["created_timestamp"].dt.floor(CHUNK))
        broken = malformed_payloads(config.malformed, config.seed)
        retrain_on: date | None = None
        retrain: Future[bool] | None = None
        self.chronicle.mark(START + timedelta(days=config.shift_day), "pattern_changed", "the fraud pattern changes")
        with self.bar() as bar:
            task = bar.add_task("live traffic", total=len(payments))
            for number in range(config.live_days):
                day = config.first_live_day + timedelta(days=number)
                bar.update(task, description=f"live day {number + 1} of {config.live_days} ({day})")
                if retrain_on is not None and day >= retrain_on and retrain is None:
                    retrain = self.trainer.submit(self._train_and_promote, day, "the monitor asked", self._in_lake())
                self.wait_monitored(number - 2)
                for at in pd.date_range(midnight(day), periods=pd.Timedelta(days=1) // CHUNK, freq=CHUNK):
                    if at in chunks.groups:
                        self._send(client, producer, chunks.get_group(at), at, lambda: bar.advance(task))
                for _, payload in broken[number :: config.live_days]:
                    headers = {"schema": b"fraud.transaction.v1", "trace": b""}
                    producer.send_raw(TRANSACTIONS, b"c-1", payload, headers)
                    self.chronicle.sent(TRANSACTIONS)
                    self.chronicle.malformed += 1
                if retrain is not None:
                    retrain_on = self._after_retrain(retrain, day)
                    retrain = None
                elif retrain_on is None and self.chronicle.promoted_day is None:
                    retrain_on = self._alarm(day)
        self.chronicle.seconds["live"] = round(time.perf_counter() - started, 1)

    def _send(
        self,
        client: DecisionClient,
        producer: EventProducer,
        payments: pd.DataFrame,
        at: pd.Timestamp,
        advance: Callable[[], None],
    ) -> None:
        """Some hours of traffic: the labels that became known until then, then the payments as they arrive."""
        due = self.waiting_labels["event_timestamp"] < at
        for row in _rows(self.waiting_labels[due]):
            send_label(producer, row, created_us=time.time_ns() // 1000)
        producer.flush()
        self.chronicle.sent(LABELS, int(due.sum()))
        answers = Answers()
        for wave in _waves(payments.sort_values("created_timestamp", kind="stable")):
            self.wait_folded()
            part = client.score(wave, advance)
            answers.extend(part)
            self.answers.extend(part)
            self.chronicle.sent(TRANSACTIONS, len(part.decisions))
            self.chronicle.sent(DECISIONS, len(part.decisions))
        self.chronicle.latencies_by_day.setdefault(at.date().isoformat(), []).extend(answers.latencies_ms)
        decided = pd.DataFrame(answers.decisions)[["transaction_id", "decision"]].merge(
            payments[["transaction_id", "event_timestamp"]], on="transaction_id"
        )
        fresh = labels_for(payments, decided)
        self.waiting_labels = pd.concat([self.waiting_labels[~due], fresh]).sort_values(
            "event_timestamp", kind="stable"
        )

    def _alarm(self, day: date) -> date | None:
        """The day to retrain on, if the monitor has raised an alert; its reason goes to the time line."""
        alerted = [window for window in self.monitored() if window["alerts"]]
        if not alerted:
            return None
        first = alerted[0]
        self.chronicle.mark(date.fromisoformat(first["day"]), "drift_detected", first["alerts"][0]["message"])
        return day + timedelta(days=self.config.retrain_wait_days)

    def _after_retrain(self, retrain: "Future[bool]", day: date) -> date | None:
        """Waits for the retrain and the swap; the next day to try on if the gates refused."""
        promoted, version = retrain.result(), str(self.chronicle.models[-1]["version"])
        if not promoted:
            return day + timedelta(days=2)
        self.wait_serving(version)
        self.chronicle.promoted_day = day.isoformat()
        self.chronicle.mark(day, "promoted", f"version {version} is champion")
        return None

    def _settle(self) -> None:
        self.wait_folded()
        self.wait_in_lake(self._in_lake())
        self.wait_monitored(self.config.live_days - 1)
        self.stack.process("monitor").terminate()
        FraudMonitor(self.settings).work(close_last=True)  # no later day will come to close the last one

    def expected(self) -> dict[str, int]:
        """How many offsets each topic must have by what was sent."""
        sent = self.chronicle.produced
        valid = sent.get(TRANSACTIONS, 0) - self.chronicle.malformed
        return {**sent, TRANSACTIONS_BY_TERMINAL: valid + sent.get(LABELS, 0)}

    def _in_lake(self) -> dict[str, int]:
        return {topic: count for topic, count in self.expected().items() if topic != TRANSACTIONS_BY_TERMINAL}


def _waves(payments: pd.DataFrame) -> list[list[dict[str, Any]]]:
    """The payments as request bodies, in waves in which no card and no terminal comes twice.

    Each card's and each terminal's are in order over the waves, which is all that a decision can tell.
    """
    waves: list[list[dict[str, Any]]] = []
    reached: dict[str, int] = {}  # by card and terminal: the wave after its last payment
    for row in _rows(payments[["transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount"]]):
        touched = row["customer_id"], row["terminal_id"]
        wave = max(reached.get(entity, 0) for entity in touched)
        reached |= dict.fromkeys(touched, wave + 1)
        if wave == len(waves):
            waves.append([])
        waves[wave].append(row | {"event_timestamp": row["event_timestamp"].isoformat()})
    return waves


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
