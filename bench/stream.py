"""The stream worker on one core: transactions per second, cost and memory as history grows, catching up after a pause.


    .venv/bin/python -m bench.stream throughput --transactions 200000 --rounds 2

    .venv/bin/python -m bench.stream history --transactions 2500000 --client confluent --out history.json

    .venv/bin/python -m bench.stream catchup --rate 3000 --pause 10 --plot docs/images/catchup.svg

A transaction is two events to the worker: itself, and its copy re-keyed to the terminal. It is done when both its rows
are in the online store; the lake is waited for at the end. The worker has a core of its own, broker and bench share the
others. The log is filled before the worker starts, so that whoever feeds it is not what is measured. Transactions by
second of the worker's CPU time hold on a busy machine too; those by second are for a quiet one.
"""

import json
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from urllib.request import urlopen

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from whiteboard.embedded import EmbeddedStack
from whiteboard.eventlog import EventProducer, create_topics
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.events import SCHEMAS, TRANSACTIONS, TRANSACTIONS_BY_TERMINAL
from whiteboard.fraud.ingest import send_transaction
from whiteboard.fraud.world import WorldConfig, simulate
from whiteboard.lake import Lake
from whiteboard.plots import BLUE, RED, canvas
from whiteboard.processes import Process, free_port, url_answers, wait_until
from whiteboard.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None, help=__doc__)

CLIENTS = ("kafka-python", "confluent")
STEPS = 10
USUAL_S = 5.0
SAMPLE_S = 0.25
CHUNK = 50_000

Transactions = Annotated[int, typer.Option(min=10_000)]
Customers = Annotated[int, typer.Option(min=10, help="the world; terminals are twice as many")]
Client = Annotated[str, typer.Option(help=f"{' or '.join(CLIENTS)}")]
Out = Annotated[Path | None, typer.Option(help="write the figures to this file as JSON")]
Plot = Annotated[Path | None, typer.Option(help="draw the curve into this file, .png or .svg")]


def resident_mb(pid: int) -> float:
    """The resident memory of a process, from Linux's /proc."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used, all its threads together, from Linux's /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """What is known of the worker at one moment; `done` is half the events that are in rows."""

    at_s: float
    done: int
    cpu_s: float
    mb: float


class Bench:
    """A broker, a feature store, and one worker on a core of its own."""

    def __init__(self, stack: EmbeddedStack) -> None:
        self.stack, self.settings = stack, stack.start_broker()
        create_topics(self.settings)
        FeatureStore.apply(self.settings)
        self._port = free_port()
        self.worker: Process

    def start_worker(self, core: int) -> None:
        """Starts the worker on `core`."""
        others = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})  # inherited
        try:
            ready = url_answers(f"http://127.0.0.1:{self._port}/metrics")
            arguments = ("--metrics-port", str(self._port))
            self.worker = self.stack.start("stream", "services.stream.worker", *arguments, ready=ready)
        finally:
            os.sched_setaffinity(0, others)

    def feed(self, rows: Iterable[dict[str, Any]]) -> None:
        """Writes the transactions to the log, by the faster client where it is installed."""
        client = "confluent" if find_spec("confluent_kafka") else "kafka-python"
        settings = self.settings.model_copy(update={"kafka_client": client})
        with EventProducer(settings, "bench", SCHEMAS, linger_ms=20, max_pending=50_000) as producer:
            for row in rows:
                send_transaction(producer, row)

    def sample(self) -> Sample:
        """What the worker says of itself now; its counts move when a batch is done."""
        with urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        found = re.findall(r'^whiteboard_stream_events_total{topic="(.+)"} (.+)$', text, re.MULTILINE)
        counts = {topic: int(float(value)) for topic, value in found}
        done = (counts[TRANSACTIONS] + counts[TRANSACTIONS_BY_TERMINAL]) // 2
        return Sample(time.perf_counter(), done, cpu_seconds(self.worker.pid), resident_mb(self.worker.pid))

    def work_off(self, transactions: int, timeout_s: float) -> list[Sample]:
        """Samples from when the worker is assigned its partitions until all are done; then they are in the lake too."""
        log = self.settings.logs_dir / "stream.log"
        wait_until(lambda: '"assigned"' in log.read_text(), "the worker has partitions", 60, every_s=0.01)
        samples = [self.sample()]
        deadline = time.perf_counter() + timeout_s
        while samples[-1].done < transactions:
            time.sleep(SAMPLE_S)
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{samples[-1].done:,} of {transactions:,} transactions after {timeout_s:g} s")
            self.stack.check()
            samples.append(self.sample())
        lake = Lake(self.settings.lake_dir)
        wait_until(lambda: sum(lake.coverage(TRANSACTIONS).values()) >= transactions, "all are in the lake", 60)
        return samples


@contextmanager
def bench(client: str) -> Iterator[tuple[Bench, int]]:
    """A bench with everything but the worker confined to the other cores, and the worker's core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, set(cores[:-1]))
    try:
        with tempfile.TemporaryDirectory() as home:
            settings = Settings.model_validate({"home": Path(home), "kafka_client": client})
            with EmbeddedStack(settings) as stack:
                yield Bench(stack), cores[-1]
    finally:
        os.sched_setaffinity(0, set(cores))


def world(transactions: int, customers: int) -> pd.DataFrame:
    """So many transactions of the simulated world, in order of time."""
    days = -(-transactions // int(customers * 1.85)) + 1
    frame: pd.DataFrame = simulate(WorldConfig(customers=customers, terminals=2 * customers, days=days)).transactions
    return frame[:transactions]


def rows_of(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Its rows, a chunk in memory at a time."""
    for start in range(0, len(frame), CHUNK):
        yield from ({str(k): v for k, v in row.items()} for row in frame[start : start + CHUNK].to_dict("records"))


def run(client: str, frame: pd.DataFrame, timeout_s: float) -> list[Sample]:
    """One worker works a full log off."""
    with bench(client) as (one, core):
        one.feed(rows_of(frame))
        one.start_worker(core)
        return one.work_off(len(frame), timeout_s)


def rates(samples: Sequence[Sample]) -> dict[str, float]:
    """Transactions by second and by second of CPU time, CPU time of one, and memory at the end."""
    first, last = samples[0], samples[-1]
    done, cpu_s = last.done - first.done, last.cpu_s - first.cpu_s
    return {
        "transactions_per_s": done / (last.at_s - first.at_s),
        "transactions_per_cpu_s": done / cpu_s,
        "cpu_us": cpu_s / done * 1e6,
        "mb": last.mb,
    }


def write(out: Path | None, figures: object) -> None:
    """The figures as JSON, if a file is asked for."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(figures, indent=2) + "\n")


@app.command()
def throughput(
    transactions: Transactions = 200_000,
    customers: Customers = 5_000,
    rounds: Annotated[int, typer.Option(min=1)] = 2,
    client: Annotated[str, typer.Option(help="only this one")] = "",
    out: Out = None,
) -> None:
    """Both clients in turn, each round with a fresh broker and store."""
    frame, figures = world(transactions, customers), []
    table = Table("client", "round", "transactions/s", "by second of CPU time", "CPU µs each", "MB", title="one core")
    for number in range(1, rounds + 1):
        for name in [client] if client else CLIENTS:
            found = rates(run(name, frame, timeout_s=600))
            figures.append({"client": name, "round": number, "transactions": transactions} | found)
            table.add_row(name, str(number), *(f"{value:,.0f}" for value in found.values()))
    Console().print(table)
    write(out, figures)


@app.command()
def history(
    transactions: Transactions = 2_500_000,
    customers: Customers = 5_000,
    client: Client = "confluent",
    plot: Plot = None,
    out: Out = None,
) -> None:
    """What a transaction costs, and the worker's memory, by how many came before it."""
    samples = run(client, world(transactions, customers), timeout_s=3_600)
    table = Table("events so far", "transactions/s", "CPU µs a transaction", "MB", title=f"{client}, one core")
    figures, before = [], samples[0]
    for step in range(1, STEPS + 1):
        reached = next(s for s in samples if s.done >= transactions * step // STEPS)
        if reached is not before:
            found = rates([before, reached])
            figures.append({"events": 2 * reached.done} | found)
            columns = (found["transactions_per_s"], found["cpu_us"], found["mb"])
            table.add_row(f"{2 * reached.done:,}", *(f"{value:,.0f}" for value in columns))
        before = reached
    Console().print(table)
    write(out, {"client": client, "steps": figures, "samples": [asdict(s) for s in samples]})
    if plot is not None:
        draw_history(plot, figures)


@app.command()
def catchup(
    rate: Annotated[int, typer.Option(min=1, help="transactions that arrive each second")] = 3_000,
    pause: Annotated[float, typer.Option(min=1, help="seconds for which the worker is stopped (SIGSTOP)")] = 10,
    seconds: Annotated[float, typer.Option(min=5, help="how long it is watched at most after the pause")] = 60,
    customers: Customers = 5_000,
    client: Client = "confluent",
    plot: Plot = None,
    out: Out = None,
) -> None:
    """The lag second by second while transactions keep arriving: before, during and after a pause of the worker."""
    warm_up_s = 10.0
    frame, sent, stop = world(int(rate * (warm_up_s + pause + seconds + 10)), customers), [0], threading.Event()

    def arriving() -> Iterator[dict[str, Any]]:
        began = time.perf_counter()
        for number, row in enumerate(rows_of(frame)):
            if number % 50 == 0 and (early := began + number / rate - time.perf_counter()) > 0:
                time.sleep(early)
            if stop.is_set():
                return
            yield row
            sent[0] = number + 1

    curve: list[tuple[float, int]] = []
    with bench(client) as (one, core):
        one.start_worker(core)
        feeder = threading.Thread(target=one.feed, args=(arriving(),))
        feeder.start()
        try:
            wait_until(lambda: one.sample().done > rate, "the worker follows", 60)
            zero, paused, done = time.perf_counter() + warm_up_s, False, 0
            while (now := time.perf_counter() - zero) < pause + seconds:
                if not paused and 0 <= now < pause:
                    os.kill(one.worker.pid, signal.SIGSTOP)
                    paused = True
                elif paused and now >= pause:
                    os.kill(one.worker.pid, signal.SIGCONT)
                    paused = False
                done = done if paused else one.sample().done
                curve.append((round(now, 1), sent[0] - done))
                usual = max((lag for at, lag in curve if -USUAL_S < at < 0), default=0)  # started, and not yet paused
                if now > pause + 5 and curve[-1][1] <= usual:
                    break
                time.sleep(SAMPLE_S)
        finally:
            os.kill(one.worker.pid, signal.SIGCONT)
            stop.set()
            feeder.join()
    caught_up_s = curve[-1][0] - pause
    table = Table(
        "second", "lag, transactions", title=f"{client}: {rate:,} transactions/s, paused from 0 to {pause:g} s"
    )
    for second in range(-3, int(curve[-1][0]) + 1):
        nearest = min(curve, key=lambda point: abs(point[0] - second))
        table.add_row(str(second), f"{nearest[1]:,}")
    Console().print(table)
    Console().print(f"caught up {caught_up_s:.1f} s after the pause; its largest lag was {max(p[1] for p in curve):,}")
    write(out, {"client": client, "rate": rate, "pause_s": pause, "caught_up_s": caught_up_s, "lag": curve})
    if plot is not None:
        draw_lag(plot, curve, pause, f"{rate:,} transactions/s arrive, the worker is paused for {pause:g} s")


def draw_history(path: Path, steps: Sequence[dict[str, float]]) -> None:
    """Cost and memory over the events before, both from zero, so that flat looks flat."""
    figure, axes = canvas("What came before costs nothing", "million events so far", "CPU µs a transaction")
    memory, million_events = axes.twinx(), [step["events"] / 1e6 for step in steps]
    axes.plot(million_events, [step["cpu_us"] for step in steps], color=BLUE, marker="o")
    memory.plot(million_events, [step["mb"] for step in steps], color=RED, marker="s")
    memory.set_ylabel("resident memory, MB", color=RED)
    memory.grid(visible=False)
    axes.yaxis.label.set_color(BLUE)
    axes.set_ylim(bottom=0)
    memory.set_ylim(bottom=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_lag(path: Path, curve: Sequence[tuple[float, int]], pause_s: float, title: str) -> None:
    """The lag over time, with the pause shaded."""
    figure, axes = canvas(title, "seconds since the pause began", "transactions not yet in the online store")
    axes.axvspan(0, pause_s, color=RED, alpha=0.1, linewidth=0)
    axes.plot([at for at, _ in curve], [lag for _, lag in curve], color=BLUE)
    axes.set_ylim(bottom=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    app()
