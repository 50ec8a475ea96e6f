"""What the demos of all systems share: an empty home, the embedded stack, waiting for its parts, the report.

    code = run(Settings(), {"fraud": lambda settings, console: Demo(settings, console, config).run()}, command)

A demo is a `Story` (pipelines/<system>/demo.py). Days are simulated and run fast, so a story waits where a lag of
milliseconds would be hours of the simulated day, and everything else runs as it would: the numbers at the end are read
from what the components wrote.
"""

import json
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from whiteboard.deadletters import list_dead_letters
from whiteboard.embedded import EmbeddedStack
from whiteboard.errors import ProcessError
from whiteboard.eventlog import create_topics
from whiteboard.featurestore import FeatureStore
from whiteboard.httpclient import Connection, exchange
from whiteboard.judgements import judged_days
from whiteboard.lake import Lake, connect
from whiteboard.processes import free_port, url_answers, wait_until
from whiteboard.registry import Registry
from whiteboard.report import write_report
from whiteboard.settings import Settings
from whiteboard.streams import Routes
from whiteboard.verdicts import verdicts

MARKER = "demo.json"  # names a home that a demo made and may therefore wipe
WORKERS = 2
_POSITIONS = "whiteboard_stream_position"
_POSITION = re.compile(rf'^{_POSITIONS}\{{partition="(\d+)",topic="([^"]+)"\}} (\S+)$', re.MULTILINE)


@dataclass
class Chronicle:
    """What only the demo itself can know: what it sent by topic, what went wrong, how long it all took."""

    produced: dict[str, int] = field(default_factory=dict)
    malformed: int = 0  # of those produced
    failures: list[str] = field(default_factory=list)
    latencies_by_day: dict[str, list[float]] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    events_per_s: float = 0.0
    promoted_day: str | None = None

    def sent(self, topic: str, count: int = 1) -> None:
        """Counts events as sent to `topic`."""
        self.produced[topic] = self.produced.get(topic, 0) + count

    def mark(self, day: date, kind: str, label: str) -> None:
        """Notes something for the report's time line."""
        self.events.append({"day": day.isoformat(), "kind": kind, "label": label})

    @property
    def latencies_ms(self) -> list[float]:
        return [ms for day in self.latencies_by_day.values() for ms in day]


class Story:
    """One system's demo: the stack of its processes, and the waiting. Subclasses tell the story and set `system`."""

    system: str

    def __init__(self, settings: Settings, console: Console) -> None:
        self.settings, self.console = settings, console
        self.chronicle = Chronicle()
        self.lake = Lake(settings.lake_dir)

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Shows that a stage goes on, and then how long it took."""
        started = time.perf_counter()
        with self.console.status(f"[bold]{title} …"):
            yield
        self.chronicle.seconds[name] = round(time.perf_counter() - started, 1)
        self.console.print(f"[green]✓[/] {title} [dim]{self.chronicle.seconds[name]:.1f} s[/]")

    def bar(self) -> Progress:
        """A progress bar for the live days."""
        return Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=self.console,
        )  # fmt: skip

    def start(self, stack: EmbeddedStack, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Starts broker, feature store, registry, workers, service and monitor; does `meanwhile` while they come up."""
        self.stack = stack
        self.settings = stack.start_broker()
        create_topics(self.settings)
        FeatureStore.apply(self.settings)
        Registry(self.settings).prepare()
        self.worker_ports = [free_port() for _ in range(WORKERS)]
        for number, port in enumerate(self.worker_ports, 1):
            arguments: tuple[str, ...] = ("--system", self.system, "--metrics-port", str(port))
            stack.start(f"stream-{number}", "services.stream.worker", *arguments)
        self.service_port = free_port()
        stack.start(self.system, f"services.{self.system}.app", "--port", str(self.service_port))
        arguments = ("--system", self.system, "--metrics-port", str(free_port()))
        stack.start("monitor", "services.monitor.worker", *arguments)
        meanwhile()
        for number, port in enumerate(self.worker_ports, 1):
            stack.process(f"stream-{number}").wait_ready(url_answers(f"http://127.0.0.1:{port}/metrics"))

    def expected(self) -> dict[str, int]:
        """How many offsets each topic must have by what was sent."""
        raise NotImplementedError

    def monitored(self) -> list[dict[str, Any]]:
        """The days that the monitor has judged."""
        return judged_days(self.settings, self.system)

    def serving(self) -> str | None:
        """The version that the service answers with now."""
        with closing(Connection("127.0.0.1", self.service_port, api_key=self.settings.client_key)) as connection:
            champion: str | None = json.loads(exchange(connection, "GET", "/v1/model")[1])["champion"]
        return champion

    def wait_serving(self, version: str) -> None:
        """Until the service serves that version."""
        wait_until(lambda: self.serving() == version, f"the service serves version {version}")

    def wait_monitored(self, live_days: int) -> None:
        """Until the monitor has judged the first `live_days` days: it may be some days behind, not a week."""

        def judged() -> bool:
            self.stack.check()
            return len(self.monitored()) >= live_days

        wait_until(judged, f"the monitor has judged {live_days} live days", timeout_s=120)

    def wait_folded(self, *topics: str) -> None:
        """Until every event sent to `topics` (default: all) is folded and pushed, as the workers' own metrics say."""
        expected = {topic: n for topic, n in self.expected().items() if not topics or topic in topics}

        def folded() -> bool:
            self.stack.check()
            positions: dict[tuple[str, str], float] = {}
            for port in self.worker_ports:
                with urlopen(f"http://127.0.0.1:{port}/metrics?name[]={_POSITIONS}", timeout=60) as response:
                    for partition, topic, offset in _POSITION.findall(response.read().decode()):
                        positions[topic, partition] = max(float(offset), positions.get((topic, partition), 0))
            return all(sum(o for (t, _), o in positions.items() if t == topic) >= n for topic, n in expected.items())

        wait_until(folded, "the stream workers have folded all that was sent", timeout_s=120)

    def wait_in_lake(self, expected: Mapping[str, int]) -> None:
        """Until the lake covers that many offsets of each topic that it keeps."""

        def covered() -> bool:
            return all(sum(self.lake.coverage(topic).values()) >= n for topic, n in expected.items())

        wait_until(covered, "the lake holds all that was sent", timeout_s=60)


def events(settings: Settings, routes: Routes, chronicle: Chronicle) -> dict[str, int]:
    """What went into the log and where it came out: lake and dead letters must add up to what was produced."""
    lake = Lake(settings.lake_dir)
    with connect() as connection:
        stored = [
            connection.sql(f"SELECT count(*) FROM {lake.relation(topic, kind)}").fetchall()[0][0]
            for topic, kind in routes.sunk.items()
        ]
    return {
        "produced": sum(chronicle.produced.values()),
        "in_lake": sum(stored),
        "dead_lettered": len({letter.origin for letter in list_dead_letters(settings, routes.system)}),
    }


def percentiles(latencies_ms: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in ms, as the client saw them; empty without any."""
    return {f"p{p}": round(float(np.percentile(latencies_ms, p)), 2) for p in (50, 95, 99)} if latencies_ms else {}


def midnight(day: date) -> pd.Timestamp:
    """The beginning of the day, in UTC."""
    return pd.Timestamp(day, tz="UTC")


def parity(windows: list[dict[str, Any]]) -> dict[str, int]:
    """The monitor's parity counts over all days."""
    return {key: sum(w["parity"][key] for w in windows) for key in ("compared", "mismatched", "stale", "degraded")}


def drift(windows: list[dict[str, Any]], changed: date, chronicle: Chronicle) -> dict[str, Any]:
    """When the world changed, when the monitor saw it, and how often it had cried wolf."""
    alarms = [w["day"] for w in windows if w["drift"]["drifted"]]
    return {
        "happened_day": changed.isoformat(),
        "detected_day": next((e["day"] for e in chronicle.events if e["kind"] == "drift_detected"), None),
        "false_alarms": sum(day < changed.isoformat() for day in alarms),
    }


def artefacts(settings: Settings, systems: list[str]) -> list[dict[str, str]]:
    """What the run left behind, as paths relative to the report."""
    found = [("All numbers (JSON)", settings.report_dir / "results.json")]
    for system in systems:
        folder = settings.monitor_dir / system
        found.append((f"Monitor's windows of {system} (JSON lines)", folder / "windows.jsonl"))
        reports = sorted((folder / "reports").glob("*.html"))
        found += [(f"Evidently report of {system} {path.stem}", path) for path in reports]
    found += [
        ("Event lake (Parquet)", settings.lake_dir),
        ("MLflow runs and registry", settings.mlflow_dir),
        ("Feast registry and online store", settings.feast_dir),
        ("The worlds and their truth", settings.home / "world"),
        ("Logs", settings.logs_dir),
    ]
    there = [(label, path) for label, path in found if path.exists() or path.name == "results.json"]
    return [{"label": label, "path": f"../{path.relative_to(settings.home)}"} for label, path in there]


@dataclass(frozen=True)
class Told:
    """A story's results, as results.json and the report show them, and how they are shown in the terminal."""

    title: str
    results: dict[str, Any]
    rows: list[tuple[str, str]]  # of the table, beside those that every system has


def table(told: Told) -> Table:
    """One system's run in one table; its own rows stand after those that every system has."""
    out, results = Table(title=told.title, show_header=False, title_justify="left"), told.results
    counted, parity, drift = (results[k] for k in ("events", "parity", "drift"))
    out.add_row("events", f"{counted['produced']:,} produced, {counted['in_lake']:,} in the lake, "
                f"{counted['dead_lettered']} dead letters")  # fmt: skip
    out.add_row("stream", f"{results['stream']['events_per_s']:,} events/s from Kafka to features and lake")
    out.add_row("decisions", f"{results['decisions']:,} over HTTP, {results['failed_requests']} failed")
    out.add_row("latency", ", ".join(f"{name} {value:.1f} ms" for name, value in results["latency_ms"].items()))
    out.add_row("parity", f"{parity['compared']:,} decisions recomputed offline, {parity['mismatched']} differ, "
                f"{parity['stale']:,} had not seen the newest event")  # fmt: skip
    out.add_row("drift", f"happened {drift['happened_day']}, detected {drift['detected_day']}, "
                f"{drift['false_alarms']} false alarms")  # fmt: skip
    for row in told.rows:
        out.add_row(*row)
    for model in results["models"]:
        outcome = "promoted" if model["promoted"] else "refused"
        out.add_row(f"version {model['version']}", f"{outcome}: {model['reason']}")
    out.add_row("seconds", ", ".join(f"{name} {value:.0f}" for name, value in results["seconds"].items()))
    return out


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


def run(settings: Settings, stories: Mapping[str, Callable[[Settings, Console], Told]], command: str) -> int:
    """The stories by system, from an empty home to the report; 0, or 1 if one of them broke a promise.

    What is promised: no event lost, no feature different offline, no request failed. The report is written after each
    story.
    """
    warnings.simplefilter("ignore", DeprecationWarning)  # of libraries; Feast's import switches them on
    console, results = Console(), dict[str, Any]()
    prepare_home(settings.home)
    settings.report_dir.mkdir(parents=True, exist_ok=True)
    broken = []
    for system, tell in stories.items():
        began = time.perf_counter()
        told = tell(settings, console)
        found = results[system] = told.results
        found["seconds"]["total"] = round(time.perf_counter() - began, 1)
        console.print(table(told))
        page = _report(settings, results, command)
        broken += [f"{system}: {v.label} {v.value} {v.detail}" for v in verdicts(found) if v.promise and not v.good]
    console.print(f"report: {page}\nnumbers: {settings.report_dir / 'results.json'}")
    if broken:
        console.print("[bold red]" + "\n".join(broken))
    return 1 if broken else 0


def _report(settings: Settings, results: Mapping[str, dict[str, Any]], command: str) -> Path:
    folder = settings.report_dir
    plain = {system: {k: v for k, v in found.items() if k != "series"} for system, found in results.items()}
    (folder / "results.json").write_text(json.dumps(plain, indent=2) + "\n")
    return write_report(folder, {"command": command, "artefacts": artefacts(settings, list(results)), **results})
