"""Latency of the recommendation service at a steady rate: one process, over HTTP on loopback, every part of it real.

    .venv/bin/python -m bench.recommending --rate 100 --seconds 60

10,000 users and 5,000 items are in the feature store, 300 candidates are ranked by 150 trees, every list is followed by
its views and, now and then, a click, and all of it goes through the broker to the stream worker, which writes to the
same store. Requests are sent when they are due, whether or not earlier ones are answered (no coordinated omission); the
latency counts from then. The load generator shares the machine's cores with all of that.
"""

import asyncio
import re
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated
from urllib.request import urlopen

import lightgbm
import msgspec
import numpy as np
import pandas as pd
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from bench.stream import cpu_seconds
from pipelines.recommendation.ranker import PARAMS
from whiteboard.embedded import EmbeddedStack
from whiteboard.eventlog import EventProducer, create_topics
from whiteboard.featurestore import FeatureStore
from whiteboard.lake import Lake
from whiteboard.processes import free_port, url_answers, wait_until
from whiteboard.recommendation.candidates import Retrieval
from whiteboard.recommendation.decision import Policy
from whiteboard.recommendation.events import INTERACTIONS, ITEMS, SCHEMAS
from whiteboard.recommendation.features import FEATURES, ITEM_FOLD, USER_FOLD
from whiteboard.recommendation.ingest import interaction_of, send_item
from whiteboard.recommendation.model import RecommendationModel
from whiteboard.recommendation.population import WorldConfig
from whiteboard.recommendation.position_bias import PositionBias
from whiteboard.recommendation.routes import ITEM_VIEW, USER_VIEW
from whiteboard.recommendation.world import World, simulate
from whiteboard.registry import CHAMPION, Registry, RunRecord
from whiteboard.settings import Settings
from whiteboard.windows import EntityFold, Row

DAYS, TREES = 14, 150
FOLDS: tuple[tuple[str, str, EntityFold], ...] = (
    (USER_VIEW, "user_id", USER_FOLD),
    (ITEM_VIEW, "item_id", ITEM_FOLD),
)


def push_rows(store: FeatureStore, world: World) -> None:
    """The rows that a stream worker would have made of the world's interactions."""
    rows: dict[str, dict[str, Row]] = {view: {} for view, _, _ in FOLDS}
    for offset, record in enumerate(world.interactions.to_dict("records")):
        event = interaction_of({str(name): value for name, value in record.items()})
        for view, key, fold in FOLDS:
            row = rows[view].setdefault(getattr(event, key), Row())
            fold.fold(row, event, INTERACTIONS, 0, 0, offset)
    for view, _, fold in FOLDS:
        pairs = list(rows[view].items())
        for start in range(0, len(pairs), 1_000):
            part = pairs[start : start + 1_000]
            store.states(view).push((entity, fold.encode(row), fold.rank(row)) for entity, row in part)


def register(registry: Registry, home: Path, world: World) -> None:
    """Candidate sources fitted on the world, and a ranker of the usual size, trained on noise; as champion."""
    rng = np.random.default_rng(0)
    rows, clicked = rng.exponential(2, (30_000, len(FEATURES))), rng.random(30_000) < 0.1
    data = lightgbm.Dataset(rows, clicked.astype(int), group=np.full(3_000, 10))
    trees = lightgbm.train({**PARAMS, "seed": 0}, data, TREES).model_to_string()
    retrieval = Retrieval.fit(world.interactions, world.items)
    bias = PositionBias(tuple(np.arange(1, 11) ** -0.6))
    folder = RecommendationModel(trees, FEATURES, retrieval, Policy(), bias).save(home / "model")
    record = RunRecord("bench", {}, {})
    loader = "whiteboard.recommendation.model"
    version = registry.register("recommendation", folder, record, loader_module=loader, requirements=[]).version
    registry.set_alias("recommendation", CHAMPION, version)


class Load:
    """Requests at a steady rate, over as many connections as are needed."""

    def __init__(self, port: int, users: list[str]) -> None:
        self._port, self._users = port, users
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._number = 0
        self.latencies: list[float] = []
        self.hops: dict[str, list[float]] = defaultdict(list)
        self.failed = self.degraded = 0

    async def run(self, rate: float, seconds: float) -> None:
        """Sends them, and waits for the last answer."""
        rng, tasks, began = np.random.default_rng(1), [], time.perf_counter()
        for number in range(int(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            user = self._users[int(rng.integers(len(self._users)))]
            tasks.append(asyncio.create_task(self._one(user, due, click=bool(rng.random() < 0.5))))
        await asyncio.gather(*tasks)

    async def _one(self, user: str, due: float, *, click: bool) -> None:
        connection = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
        head, body = await _exchange(
            connection, b"GET /v1/recommendations?user_id=%b&k=10 HTTP/1.1\r\n" % user.encode()
        )
        self.latencies.append(time.perf_counter() - due)
        if not head.startswith("HTTP/1.1 200"):
            self.failed += 1
            return
        answer = msgspec.json.decode(body)
        self.degraded += answer["degraded"]
        timing = next(line for line in head.splitlines() if line.lower().startswith("server-timing"))
        for part in timing.partition(": ")[2].split(", "):
            hop, _, duration = part.partition(";dur=")
            self.hops[hop].append(float(duration))
        shown = [item["item_id"] for item in answer["items"]]
        done = [("view", place) for place in range(4)] + ([("click", 0)] if click else [])
        sent = msgspec.json.encode({"interactions": [self._done(user, answer["request_id"], shown, *d) for d in done]})
        head, _ = await _exchange(
            connection, b"POST /v1/interactions HTTP/1.1\r\nContent-Length: %d\r\n" % len(sent), sent
        )
        self.failed += not head.startswith("HTTP/1.1 202")
        self._free.append(connection)

    def _done(self, user: str, request_id: str, shown: list[str], kind: str, place: int) -> dict[str, object]:
        self._number += 1
        return {
            "interaction_id": f"b-{self._number}",
            "event_timestamp": datetime.now(UTC).isoformat(),
            "user_id": user,
            "item_id": shown[place],
            "event_type": kind,
            "request_id": request_id,
            "position": place + 1,
        }


async def _exchange(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], head: bytes, body: bytes = b""
) -> tuple[str, bytes]:
    reader, writer = connection
    writer.write(head + b"Host: bench\r\n\r\n" + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(answer.lower().partition("content-length: ")[2].partition("\r\n")[0])
    return answer, await reader.readexactly(length)


def hit_rate(port: int) -> float:
    """Share of the candidates whose feature row came from the service's cache of items."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r'^whiteboard_recommendation_item_cache_total\{outcome="(\w+)"\} (\S+)', text, re.MULTILINE)
    counts = {outcome: float(count) for outcome, count in found}
    return counts["hit"] / (counts["hit"] + counts["miss"])


def main(
    rate: Annotated[float, typer.Option(min=1, help="requests a second")] = 100.0,
    seconds: Annotated[float, typer.Option(min=1)] = 60.0,
    users: Annotated[int, typer.Option(min=10)] = 10_000,
    items: Annotated[int, typer.Option(min=50)] = 5_000,
) -> None:
    """Starts everything, sends requests, prints the tables."""
    start = (datetime.now(UTC) - timedelta(days=DAYS)).date()
    config = WorldConfig(users=users, items=items, start=start, days=DAYS, requests_per_user_day=0.3)
    with tempfile.TemporaryDirectory() as home, EmbeddedStack(Settings(home=Path(home))) as stack:
        settings = stack.start_broker()
        create_topics(settings)
        world = simulate(config)
        world.interactions.drop(
            world.interactions.index[world.interactions["event_timestamp"] > pd.Timestamp.now("UTC")], inplace=True
        )
        store = FeatureStore.apply(settings)
        registry = Registry(settings)
        register(registry, settings.home, world)
        worker = stack.start("stream", "services.stream.worker", "--system", "recommendation", "--metrics-port", "0")
        with EventProducer(settings, "bench", SCHEMAS, linger_ms=20) as producer:
            for record in world.items.to_dict("records"):
                send_item(producer, {str(name): value for name, value in record.items()})
        wait_until(
            lambda: sum(Lake(settings.lake_dir).coverage(ITEMS).values()) == items, "the catalogue is in the lake"
        )
        push_rows(store, world)
        port = free_port()
        ready = url_answers(f"http://127.0.0.1:{port}/health/ready")
        service = stack.start("recommendation", "services.recommendation.app", "--port", str(port), ready=ready)
        known = world.interactions["user_id"].unique().tolist()
        uvloop.run(Load(port, known).run(rate / 2, 5.0))  # warm
        used = cpu_seconds(service.pid), cpu_seconds(worker.pid)
        load = Load(port, known)
        uvloop.run(load.run(rate, seconds))
        spent = cpu_seconds(service.pid) - used[0], cpu_seconds(worker.pid) - used[1]
        cached = hit_rate(port)
    cuts = np.percentile(load.latencies, [50, 95, 99]) * 1000
    cpu = [f"{1000 * seconds_ / len(load.latencies):.1f} ms" for seconds_ in spent]
    table = Table(title=f"recommendation service, {users:,} users, {items:,} items", show_header=False)
    for what, value in {
        "requests": f"{len(load.latencies):,} at {rate:g}/s, {load.failed} failed, {load.degraded} degraded",
        "latency": "p50 {:.1f} ms, p95 {:.1f} ms, p99 {:.1f} ms".format(*cuts),
        "longest": f"{1000 * max(load.latencies):.1f} ms",
        "CPU a request": f"service {cpu[0]}, stream worker {cpu[1]}",
        "item rows from the cache": f"{cached:.1%}",
    }.items():
        table.add_row(what, value)
    Console().print(table)
    hops = Table("hop", "p50 ms", "p99 ms", title="by hop (Server-Timing)")
    for hop, durations in load.hops.items():
        hops.add_row(hop, *(f"{value:.2f}" for value in np.percentile(durations, [50, 99])))
    Console().print(hops)


if __name__ == "__main__":
    typer.run(main)
