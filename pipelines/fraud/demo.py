"""The fraud system's whole life in minutes, embedded: `whiteboard demo --system fraud`.

History through Kafka → first champion → live days over HTTP while labels trickle in → the fraud pattern changes →
drift is seen → retrain, gates, promotion, hot swap under traffic → quality before, during, after.

Days are simulated and run fast: a real second is some hours. So before a payment is sent whose card or terminal had
one a moment ago, the demo waits until the stream workers have folded that; otherwise a lag of milliseconds would be
hours of the simulated day. Everything else runs as it would: the numbers at the end are read from what the components
wrote.
"""

import json
import re
import shutil
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipelines.fraud import story
from pipelines.fraud.dataset import build
from pipelines.fraud.promote import promote
from pipelines.fraud.train import TrainConfig, train
from whiteboard.embedded import EmbeddedStack
from whiteboard.errors import NotEnoughDataError, ProcessError
from whiteboard.eventlog import EventProducer, create_topics
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.events import DECISIONS, LABELS, SCHEMAS, TRANSACTIONS, TRANSACTIONS_BY_TERMINAL
from whiteboard.fraud.ingest import ingest, send_label
from whiteboard.fraud.monitor import Monitor
from whiteboard.fraud.traffic import Answers, DecisionClient
from whiteboard.fraud.world import WorldConfig, labels_for, malformed_payloads, simulate
from whiteboard.lake import Lake
from whiteboard.processes import free_port, url_answers, wait_until
from whiteboard.registry import Registry
from whiteboard.report import write_report
from whiteboard.settings import Settings

MARKER = "demo.json"  # names a home that a demo made and may therefore wipe
WORKERS = 2
CHUNK = pd.Timedelta(hours=6)  # labels are sent at its beginning
START = date(2026, 1, 5)
_POSITION = re.compile(r'^whiteboard_stream_position\{partition="(\d+)",topic="([^"]+)"\} (\S+)$', re.MULTILINE)


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


@dataclass
class Chronicle:
    """What the demo itself saw: what it sent, what came back, which models were made, and how long each stage took."""

    produced: dict[str, int] = field(default_factory=lambda: {TRANSACTIONS: 0, LABELS: 0, "malformed": 0})
    answers: Answers = field(default_factory=Answers)
    latencies_by_day: dict[str, list[float]] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    events_per_s: float = 0.0
    promoted_day: str | None = None

    def mark(self, day: date, kind: str, label: str) -> None:
        """Notes something for the report's time line."""
        self.events.append({"day": day.isoformat(), "kind": kind, "label": label})


class Demo:
    """One run of the story."""

    def __init__(self, settings: Settings, config: DemoConfig, console: Console) -> None:
        self.settings, self.config, self.console = settings, config, console
        self.chronicle = Chronicle()
        self.lake = Lake(settings.lake_dir)
        self.trainer = ThreadPoolExecutor(1, thread_name_prefix="pipeline")

    def run(self) -> dict[str, Any]:
        """Lives the story and returns its results."""
        with EmbeddedStack(self.settings) as stack:
            self.stack = stack
            with self._stage("start", "Broker, feature store, two workers, service and monitor start"):
                self._start()
            with self._stage("ingest", f"{self.config.history_days} days of history go through Kafka"):
                self._history()
            with self._stage("train", "First model: point-in-time set, training, gates, promotion"):
                self._train_and_promote(self.config.first_live_day, "first model", self._expected())
                wait_until(lambda: self._serving() == "1", "the service serves version 1")
            with DecisionClient(self.service_port) as client, EventProducer(self.settings, "demo", SCHEMAS) as producer:
                self._live(client, producer)
            with self._stage("settle", "The last events reach the lake and the monitor"):
                self._settle()
            return self._results()

    def _results(self) -> dict[str, Any]:
        """Everything that the run's components wrote, as results.json and the report show it."""
        told, config = self.chronicle, self.config
        decided, windows = story.decided(self.settings), self._monitored()
        changed = START + timedelta(days=config.shift_day)
        alarms = [w["day"] for w in windows if w["drift"]["drifted"]]
        detected = next((e["day"] for e in told.events if e["kind"] == "drift_detected"), None)
        parity = {
            key: sum(w["parity"][key] for w in windows) for key in ("compared", "mismatched", "stale", "degraded")
        }
        return {
            "events": story.events(self.settings, told),
            "decisions": len(told.answers.decisions),
            "failed_requests": len(told.answers.failures),
            "failures": told.answers.failures[:10],
            "parity": parity,
            "latency_ms": story.percentiles(told.answers.latencies_ms),
            "quality": story.periods(decided, changed, told.promoted_day),
            "drift": {
                "happened_day": changed.isoformat(),
                "detected_day": detected,
                "false_alarms": sum(day < changed.isoformat() for day in alarms),
            },
            "models": told.models,
            "stream": {"events_per_s": round(told.events_per_s)},
            "seconds": told.seconds,
            "series": {"days": story.days(decided, windows, told.latencies_by_day), "events": told.events},
        }

    @contextmanager
    def _stage(self, name: str, title: str) -> Iterator[None]:
        started = time.perf_counter()
        with self.console.status(f"[bold]{title} …"):
            yield
        self.chronicle.seconds[name] = round(time.perf_counter() - started, 1)
        self.console.print(f"[green]✓[/] {title} [dim]{self.chronicle.seconds[name]:.1f} s[/]")

    def _start(self) -> None:
        self.settings = self.stack.start_broker()
        create_topics(self.settings)
        FeatureStore.apply(self.settings)
        Registry(self.settings).prepare()
        self.worker_ports = [free_port() for _ in range(WORKERS)]
        for number, port in enumerate(self.worker_ports, 1):
            self.stack.start(f"stream-{number}", "services.stream.worker", "--metrics-port", str(port))
        self.service_port, monitor_port = free_port(), free_port()
        self.stack.start("fraud", "services.fraud.app", "--port", str(self.service_port))
        self.stack.start("monitor", "services.monitor.worker", "--metrics-port", str(monitor_port))
        self.world = simulate(self.config.world())
        self.world.save(self.settings.home / "world")
        for number, port in enumerate(self.worker_ports, 1):
            ready = url_answers(f"http://127.0.0.1:{port}/metrics")
            self.stack.process(f"stream-{number}").wait_ready(ready)

    def _history(self) -> None:
        payments, until = self.world.transactions, _midnight(self.config.first_live_day)
        started = time.perf_counter()
        result = ingest(self.settings, payments[payments["created_timestamp"] < until], until=until)
        self.waiting_labels = result.withheld
        self.chronicle.produced[TRANSACTIONS] += result.transactions
        self.chronicle.produced[LABELS] += result.labels
        self._wait_folded()
        self.chronicle.events_per_s = (result.transactions + result.labels) / (time.perf_counter() - started)

    def _train_and_promote(self, day: date, why: str, expected: dict[str, int]) -> bool:
        """Trains on what was sent until now; it need not wait for what is sent meanwhile."""
        self._wait_in_lake(expected)
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
        payments = payments[payments["created_timestamp"] >= _midnight(config.first_live_day)]
        chunks = payments.groupby(payments["created_timestamp"].dt.floor(CHUNK))
        broken = malformed_payloads(config.malformed, config.seed)
        retrain_on: date | None = None
        retrain: Future[bool] | None = None
        self.chronicle.mark(START + timedelta(days=config.shift_day), "pattern_changed", "the fraud pattern changes")
        with _bar(self.console) as bar:
            task = bar.add_task("live traffic", total=len(payments))
            for number in range(config.live_days):
                day = config.first_live_day + timedelta(days=number)
                bar.update(task, description=f"live day {number + 1} of {config.live_days} ({day})")
                if retrain_on is not None and day >= retrain_on and retrain is None:
                    retrain = self.trainer.submit(self._train_and_promote, day, "the monitor asked", self._expected())
                self._wait_monitored(number - 2)
                for at in pd.date_range(_midnight(day), periods=pd.Timedelta(days=1) // CHUNK, freq=CHUNK):
                    if at in chunks.groups:
                        self._send(client, producer, chunks.get_group(at), at, lambda: bar.advance(task))
                for _, payload in broken[number :: config.live_days]:
                    headers = {"schema": b"fraud.transaction.v1", "trace": b""}
                    producer.send_raw(TRANSACTIONS, b"c-1", payload, headers)
                    self.chronicle.produced["malformed"] += 1
                if retrain is not None:
                    retrain_on = self._after_retrain(retrain, day)
                    retrain = None
                elif retrain_on is None and self.chronicle.promoted_day is None:
                    retrain_on = self._alarm(day)
        self.chronicle.seconds["live"] = round(time.perf_counter() - started, 1)

    def _send(
        self, client: DecisionClient, producer: EventProducer, payments: pd.DataFrame, at: pd.Timestamp, advance: Any
    ) -> None:
        """Some hours of traffic: the labels that became known until then, then the payments as they arrive."""
        due = self.waiting_labels["event_timestamp"] < at
        for row in _rows(self.waiting_labels[due]):
            send_label(producer, row, created_us=time.time_ns() // 1000)
        producer.flush()
        self.chronicle.produced[LABELS] += int(due.sum())
        answers = Answers()
        for batch in _independent(payments.sort_values("created_timestamp", kind="stable")):
            self._wait_folded()
            part = client.score(batch, advance)
            answers.extend(part)
            self.chronicle.answers.extend(part)
            self.chronicle.produced[TRANSACTIONS] += len(part.decisions)
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
        alerted = [window for window in self._monitored() if window["alerts"]]
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
        wait_until(lambda: self._serving() == version, f"the service serves version {version}")
        self.chronicle.promoted_day = day.isoformat()
        self.chronicle.mark(day, "promoted", f"version {version} is champion")
        return None

    def _settle(self) -> None:
        self._wait_folded()
        self._wait_in_lake(self._expected())
        self._wait_monitored(self.config.live_days - 1)
        self.stack.process("monitor").terminate()
        Monitor(self.settings).work(close_last=True)  # no later day will come to close the last one

    def _wait_monitored(self, live_days: int) -> None:
        """Until the monitor has judged the first `live_days` days: it may be two days behind, not a week."""

        def judged() -> bool:
            self.stack.check()
            return len(self._monitored()) >= live_days

        wait_until(judged, f"the monitor has judged {live_days} live days", timeout_s=120)

    def _monitored(self) -> list[dict[str, Any]]:
        path = self.settings.monitor_dir / "fraud" / "windows.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _serving(self) -> str | None:
        with urlopen(f"http://127.0.0.1:{self.service_port}/v1/model", timeout=5) as response:
            champion: str | None = json.load(response)["champion"]
        return champion

    def _expected(self) -> dict[str, int]:
        """How many offsets each topic must have by what was sent."""
        sent = self.chronicle.produced
        events = sent[TRANSACTIONS] + sent[LABELS]
        return {
            TRANSACTIONS: sent[TRANSACTIONS] + sent["malformed"],
            LABELS: sent[LABELS],
            DECISIONS: len(self.chronicle.answers.decisions),
            TRANSACTIONS_BY_TERMINAL: events,
        }

    def _wait_folded(self) -> None:
        """Until every event sent is folded and pushed, as the workers' own metrics say."""

        def folded() -> bool:
            self.stack.check()
            positions: dict[tuple[str, str], float] = {}
            for port in self.worker_ports:
                with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
                    for at, offset in _positions(response.read().decode()):
                        positions[at] = max(offset, positions.get(at, 0))
            expected = self._expected()
            return all(sum(o for (t, _), o in positions.items() if t == topic) >= n for topic, n in expected.items())

        wait_until(folded, "the stream workers have folded all that was sent", timeout_s=120)

    def _wait_in_lake(self, expected: dict[str, int]) -> None:
        """Until the lake covers that many offsets of each topic."""

        def covered() -> bool:
            return all(
                sum(self.lake.coverage(topic).values()) >= count
                for topic, count in expected.items()
                if topic != TRANSACTIONS_BY_TERMINAL
            )

        wait_until(covered, "the lake holds all that was sent", timeout_s=60)


def _positions(metrics: str) -> Iterator[tuple[tuple[str, str], float]]:
    for partition, topic, value in _POSITION.findall(metrics):
        yield (topic, partition), float(value)


def _independent(payments: pd.DataFrame) -> Iterator[list[dict[str, Any]]]:
    """Runs of consecutive payments in which no card and no terminal comes twice, as request bodies."""
    batch: list[dict[str, Any]] = []
    seen: set[str] = set()
    columns = ["transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount"]
    for row in _rows(payments[columns]):
        touched = {row["customer_id"], row["terminal_id"]}
        if touched & seen:
            yield batch
            batch, seen = [], set()
        seen |= touched
        batch.append(row | {"event_timestamp": row["event_timestamp"].isoformat()})
    if batch:
        yield batch


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _midnight(day: date) -> pd.Timestamp:
    return pd.Timestamp(day, tz="UTC")


def _bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console,
    )  # fmt: skip


def prepare_home(home: Path) -> None:
    """Empties a home that an earlier demo left. Raises ProcessError for one that holds something else."""
    if home.exists() and any(home.iterdir()):
        if not (home / MARKER).exists():
            raise ProcessError(f"{home} holds something that no demo made; choose another --home or delete it")
        if (home / "run" / "stack.json").exists():
            with EmbeddedStack(Settings(home=home)):  # refuses if a stack is running there
                pass
        shutil.rmtree(home)
    home.mkdir(parents=True)
    (home / MARKER).write_text('{"made_by": "whiteboard demo"}\n')


def run(settings: Settings, config: DemoConfig) -> int:
    """The demo from an empty home to the report; 0, or 1 if an event was lost, parity broken or a request failed."""
    warnings.simplefilter("ignore", DeprecationWarning)  # of libraries; Feast's import switches them on
    console, began = Console(), time.perf_counter()
    prepare_home(settings.home)
    results = Demo(settings, config, console).run()
    results["seconds"]["total"] = round(time.perf_counter() - began, 1)
    command = f"whiteboard demo --system fraud --seed {config.seed} --customers {config.customers}"
    folder = settings.report_dir
    folder.mkdir(parents=True, exist_ok=True)
    plain = {"fraud": {key: value for key, value in results.items() if key != "series"}}
    (folder / "results.json").write_text(json.dumps(plain, indent=2) + "\n")
    page = write_report(folder, {"command": command, "artefacts": story.artefacts(settings), "fraud": results})
    console.print(story.table(results))
    console.print(f"report: {page}\nnumbers: {folder / 'results.json'}")
    if broken := story.broken_promises(results):
        console.print("[bold red]" + "\n".join(broken))
    return 1 if broken else 0
