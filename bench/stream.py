"""Throughput and memory of the stream worker: events from Kafka to pushed features and lake.

    .venv/bin/python -m bench.stream --transactions 500000

Each transaction is two events to the worker: itself, and its copy re-keyed to the terminal. Prints events/s over the
whole run, while load generator and broker share the machine; events by second of the worker's own CPU time, which is
what a core of its own would do; and its resident memory, which a million events must not make grow.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from whiteboard.embedded import EmbeddedStack
from whiteboard.eventlog import EventProducer, create_topics
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.events import SCHEMAS, TRANSACTIONS
from whiteboard.fraud.ingest import send_transaction
from whiteboard.fraud.world import WorldConfig, simulate
from whiteboard.lake import Lake
from whiteboard.processes import free_port, url_answers, wait_until
from whiteboard.settings import Settings

STEPS = 10


def resident_mb(pid: int) -> float:
    """The resident memory of a process, from Linux's /proc."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used, all its threads together, from Linux's /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(
    transactions: Annotated[int, typer.Option(min=10_000)] = 500_000,
    customers: Annotated[int, typer.Option(min=10)] = 5_000,
) -> None:
    """Feeds one worker and prints the table."""
    days = -(-transactions // int(customers * 1.9)) + 1
    world = simulate(WorldConfig(customers=customers, terminals=2 * customers, days=days)).transactions[:transactions]
    rows = [{str(k): v for k, v in row.items()} for row in world.to_dict("records")]
    table = Table("events", "seconds", "events/s in this step", "worker MB", title="one stream worker, one core")
    with tempfile.TemporaryDirectory() as home, EmbeddedStack(Settings(home=Path(home))) as stack:
        settings = stack.start_broker()
        create_topics(settings)
        FeatureStore.apply(settings)
        port = free_port()
        ready = url_answers(f"http://127.0.0.1:{port}/metrics")
        worker = stack.start("stream", "services.stream.worker", "--metrics-port", str(port), ready=ready)
        lake, size, total = Lake(settings.lake_dir), -(-len(rows) // STEPS), 0.0
        used = cpu_seconds(worker.pid)
        with EventProducer(settings, "bench", SCHEMAS, linger_ms=20) as producer:
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                began = time.perf_counter()
                for row in part:
                    send_transaction(producer, row)
                producer.flush(timeout_s=120)
                done = start + len(part)
                wait_until(lambda: sum(lake.coverage(TRANSACTIONS).values()) >= done, "the step is in the lake", 600)  # noqa: B023
                seconds = time.perf_counter() - began
                total += seconds
                rate = f"{2 * len(part) / seconds:,.0f}"
                table.add_row(f"{2 * done:,}", f"{seconds:.1f}", rate, f"{resident_mb(worker.pid):.0f}")
        used = cpu_seconds(worker.pid) - used
    Console().print(table)
    Console().print(f"{2 * len(rows) / total:,.0f} events/s, {len(rows) / total:,.0f} transactions/s over all")
    Console().print(f"{2 * len(rows) / used:,.0f} events by second of the worker's CPU time")


if __name__ == "__main__":
    typer.run(main)
