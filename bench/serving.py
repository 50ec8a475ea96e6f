"""Latency and throughput of the fraud service: one process, over HTTP on loopback, every part of it real.

    .venv/bin/python -m bench.serving --seconds 10

A world's cards and terminals are in the feature store, a model of 300 trees decides, another one shadows it, and both
events of every payment go to the spool and from there to the broker. The load generator shares the machine's cores with
all of that; the service's own CPU time for a decision says what a core of its own would do. A bare FastAPI endpoint
with the same body in and out (bench/peers/bare.py) takes turns with it, half a second each; the last column is the
ratio.
"""

import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, cast

import lightgbm
import msgspec
import numpy as np
import pandas as pd
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from bench.machine import slow
from bench.stream import cpu_seconds
from whiteboard.embedded import EmbeddedStack
from whiteboard.eventlog import create_topics
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.calibration import Calibration
from whiteboard.fraud.decision import Thresholds
from whiteboard.fraud.events import TRANSACTIONS, Transaction
from whiteboard.fraud.features import CUSTOMER_FOLD, FEATURES, TERMINAL_FOLD
from whiteboard.fraud.model import FraudModel
from whiteboard.fraud.world import WorldConfig, simulate
from whiteboard.processes import free_port, url_answers
from whiteboard.registry import CHAMPION, Registry, RunRecord
from whiteboard.settings import Settings
from whiteboard.windows import EntityFold, Row

WORLD = WorldConfig(customers=1_000, terminals=2_000, days=60)
TREES = 300
TURN_S = 0.5  # a virtual machine's speed changes within seconds


class Client(asyncio.Protocol):
    """One keep-alive connection that sends the next payment when the last one is answered."""

    def __init__(self, payments: "Payments", until: float) -> None:
        self._payments, self._until = payments, until
        self._buffer, self._sent_at = b"", 0.0
        self.latencies: list[float] = []
        self.failed = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return
        self.latencies.append(time.perf_counter() - self._sent_at)
        self.failed += not head.startswith(b"HTTP/1.1 200")
        self._buffer = b""
        self._send()

    def connection_lost(self, _: Exception | None) -> None:
        self.done.set_result(None)

    def _send(self) -> None:
        if time.perf_counter() > self._until:
            self._transport.close()
            return
        body = self._payments.next()
        head = b"POST /v1/decisions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        head += b"Content-Length: %d\r\n\r\n" % len(body)
        self._sent_at = time.perf_counter()
        self._transport.write(head + body)


class Payments:
    """New payments of the world's cards, right after its end."""

    def __init__(self, rows: pd.DataFrame) -> None:
        columns = rows[["customer_id", "terminal_id", "amount"]]
        self._rows = [dict(zip(columns, values, strict=True)) for values in columns.itertuples(index=False)]
        self._at = (rows["event_timestamp"].max() + timedelta(minutes=1)).isoformat()
        self._number = 0

    def next(self) -> bytes:
        """The next one, as JSON."""
        self._number += 1
        row = {"transaction_id": f"bench-{self._number}", "event_timestamp": self._at}
        return msgspec.json.encode(row | self._rows[self._number % len(self._rows)])


def push_rows(store: FeatureStore, transactions: pd.DataFrame) -> None:
    """The rows that a stream worker would have made of these transactions."""
    folds: list[tuple[str, str, EntityFold]] = [
        ("fraud_customer", "customer_id", CUSTOMER_FOLD),
        ("fraud_terminal", "terminal_id", TERMINAL_FOLD),
    ]
    rows: dict[str, dict[str, Row]] = {view: {} for view, _, _ in folds}
    names = Transaction.__struct_fields__
    for offset, values in enumerate(transactions[list(names)].itertuples(index=False)):
        event = Transaction(**dict(zip(names, values, strict=True)))
        for view, key, fold in folds:
            row = rows[view].setdefault(getattr(event, key), fold.decode(None))
            fold.fold(row, event, TRANSACTIONS, 0, 0, offset)
    for view, _, fold in folds:
        store.states(view).push((entity, fold.encode(row), fold.rank(row)) for entity, row in rows[view].items())


def register(registry: Registry, home: Path, seed: int) -> str:
    """A model of the usual size, trained on noise; its version."""
    rng = np.random.default_rng(seed)
    rows = rng.exponential(50, (20_000, len(FEATURES)))
    fraud = rows[:, 0] + rng.normal(0, 100, len(rows)) > 300
    params = {"objective": "binary", "num_leaves": 15, "num_threads": 1, "verbosity": -1}
    trees = lightgbm.train(params, lightgbm.Dataset(rows, fraud), TREES).model_to_string()
    model = FraudModel(trees, FEATURES, Calibration([-8.0, 8.0], [0.0, 1.0]), Thresholds(0.5, 0.8))
    folder = model.save(home / f"model-{seed}")
    record = RunRecord("bench", {}, {})
    return registry.register("fraud", folder, record, loader_module="whiteboard.fraud.model", requirements=[]).version


async def load(port: int, payments: Payments, connections: int, seconds: float) -> tuple[list[float], int]:
    """The latencies in seconds, and how many answers were no decision."""
    loop, until = asyncio.get_running_loop(), time.perf_counter() + seconds
    pairs = [
        await loop.create_connection(lambda: Client(payments, until), "127.0.0.1", port) for _ in range(connections)
    ]
    await asyncio.gather(*(client.done for _, client in pairs))
    return [x for _, client in pairs for x in client.latencies], sum(client.failed for _, client in pairs)


@dataclass
class Asked:
    """A process under so many connections, in several turns."""

    what: str
    pid: int
    port: int
    connections: int
    seconds: float = 0.0
    cpu_s: float = 0.0
    failed: int = 0
    latencies: list[float] = field(default_factory=list)

    def turn(self, payments: Payments, seconds: float) -> None:
        """Asks for so long."""
        before = cpu_seconds(self.pid)
        latencies, failed = uvloop.run(load(self.port, payments, self.connections, seconds))
        self.cpu_s += cpu_seconds(self.pid) - before
        self.seconds += seconds
        self.failed += failed
        self.latencies += latencies

    @property
    def cpu_ms(self) -> float:
        """Of a request."""
        return 1000 * self.cpu_s / len(self.latencies)

    def row(self, bare: "Asked") -> list[str]:
        """Rate, percentiles, failures, CPU time, and that as many times as of the bare endpoint."""
        cuts = [f"{1000 * x:.2f}" for x in (*np.percentile(self.latencies, [50, 95, 99]), max(self.latencies))]
        rate, times = f"{len(self.latencies) / self.seconds:,.0f}", f"{self.cpu_ms / bare.cpu_ms:.2f}"
        return [self.what, str(self.connections), rate, *cuts, str(self.failed), f"{self.cpu_ms:.2f}", times]


def main(seconds: Annotated[float, typer.Option(min=1, help="for each number of connections and side")] = 10.0) -> None:
    """Starts everything, sends payments, prints the table."""
    machine = slow(10.0)
    columns = ("", "connections", "decisions/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "failed", "CPU ms", "× bare")
    table = Table(*columns, title="fraud service")
    with tempfile.TemporaryDirectory() as home, EmbeddedStack(Settings(home=Path(home))) as stack:
        settings = stack.start_broker()
        create_topics(settings)
        world = simulate(WORLD).transactions
        push_rows(FeatureStore.apply(settings), world)
        registry = Registry(settings)
        registry.set_alias("fraud", CHAMPION, register(registry, settings.home, 0))
        register(registry, settings.home, 1)  # the challenger
        port = free_port()
        ready = url_answers(f"http://127.0.0.1:{port}/health/ready")
        service = stack.start("fraud", "services.fraud.app", "--port", str(port), ready=ready)
        bare_port = free_port()
        listens = url_answers(f"http://127.0.0.1:{bare_port}/openapi.json")
        serving = ("bench.peers.bare:app", "--port", str(bare_port), "--no-access-log", "--log-level", "warning")
        bare = stack.start("bare", "uvicorn", *serving, ready=listens)
        payments = Payments(world.tail(5_000))
        both = (("service", service.pid, port), ("bare endpoint", bare.pid, bare_port))
        for _, _, at in both:
            uvloop.run(load(at, payments, 4, 1.0))  # warm
        for connections in (1, 8, 16):
            sides = [Asked(what, pid, at, connections) for what, pid, at in both]
            for _ in range(round(seconds / TURN_S)):
                for side in sides:
                    side.turn(payments, TURN_S)
            for side in sides:
                table.add_row(*side.row(sides[1]))
    console = Console(width=110)
    console.print(table)
    console.print(f"the machine by itself: {machine}")


if __name__ == "__main__":
    typer.run(main)
