"""Latency of the recommendation service at a steady rate, over HTTP on loopback, every part of it real.

    .venv/bin/python -m bench.recommending --rate 100 --seconds 60 --replicas 2

10,000 users and 5,000 items are in the feature store, 300 candidates are ranked by 150 trees, every list is followed by
its views and, now and then, a click, and all of it goes through the broker to the stream worker, which writes to the
same store. Requests are sent when they are due, whether or not earlier ones are answered (no coordinated omission); the
latency counts from then. The load generator shares the machine's cores with all of that.
"""

import re
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated
from urllib.request import urlopen

import lightgbm
import numpy as np
import pandas as pd
import psutil
import typer
from rich.console import Console
from rich.table import Table

from bench.stream import cpu_seconds
from pipelines.recommendation.ranker import PARAMS
from whiteboard.embedded import EmbeddedStack
from whiteboard.eventlog import EventProducer, create_topics
from whiteboard.featurestore import FeatureStore
from whiteboard.lake import Lake
from whiteboard.load import Plan, run
from whiteboard.load.report import machine
from whiteboard.processes import free_port, url_answers, wait_until
from whiteboard.recommendation.candidates import Retrieval
from whiteboard.recommendation.decision import Policy
from whiteboard.recommendation.events import INTERACTIONS, ITEMS, SCHEMAS
from whiteboard.recommendation.features import FEATURES, ITEM_FOLD, USER_FOLD
from whiteboard.recommendation.ingest import interaction_of, send_item
from whiteboard.recommendation.load import RecommendationUsers
from whiteboard.recommendation.model import RecommendationModel
from whiteboard.recommendation.population import WorldConfig
from whiteboard.recommendation.position_bias import PositionBias
from whiteboard.recommendation.routes import ITEM_VIEW, USER_VIEW
from whiteboard.recommendation.world import World, simulate
from whiteboard.registry import CHAMPION, Registry, RunRecord
from whiteboard.settings import Settings
from whiteboard.windows import EntityFold, Row
from whiteboard.workers import PORT_STEP
from whiteboard.worldclock import WorldClock

DAYS, TREES = 14, 150
WARM_UP_S = 5.0
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


def metrics(url: str) -> Counter[tuple[str, str]]:
    """What the service has counted: by the name of the metric and the value of its (one) label."""
    with urlopen(f"{url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    lines = re.findall(r'^whiteboard_recommendation_(\w+)\{\w+="(\w+)"\} (\S+)', text, re.MULTILINE)
    return Counter({(name, label): float(value) for name, label, value in lines})  # type: ignore[misc]


def main(
    rate: Annotated[float, typer.Option(min=1, help="requests a second")] = 100.0,
    seconds: Annotated[float, typer.Option(min=1)] = 60.0,
    users: Annotated[int, typer.Option(min=10)] = 10_000,
    items: Annotated[int, typer.Option(min=50)] = 5_000,
    replicas: Annotated[int, typer.Option(min=1, help="processes of the service behind its port")] = 1,
    feedback: Annotated[bool, typer.Option(help="each list is followed by its views and clicks")] = True,
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
        own = [port] if replicas == 1 else [port + PORT_STEP * number for number in range(1, replicas + 1)]
        listening = ("--port", str(port), "--workers", str(replicas))
        service = stack.start("recommendation", "services.recommendation.app", *listening)
        for each in own:
            service.wait_ready(url_answers(f"http://127.0.0.1:{each}/health/ready"))
        processes = [psutil.Process(service.pid), *psutil.Process(service.pid).children()]
        known = world.interactions["user_id"].unique().tolist()
        url = f"http://127.0.0.1:{port}"
        traffic = RecommendationUsers.made_of(known, WorldClock(datetime.now(UTC)), skew=0, feedback=feedback)
        used = sum(cpu_seconds(process.pid) for process in processes), cpu_seconds(worker.pid)
        result = run(Plan(url, traffic, rate, seconds, warm_up_s=WARM_UP_S))
        spent = sum(cpu_seconds(process.pid) for process in processes) - used[0], cpu_seconds(worker.pid) - used[1]
        counted = sum((metrics(f"http://127.0.0.1:{each}") for each in own), Counter())
    lists, sent = result.summary(), len(result.records.where(result.records.kinds == traffic.kind))
    cpu = [f"{1000 * seconds_ / sent:.1f} ms" for seconds_ in spent]
    hits, misses = (counted["item_cache_total", outcome] for outcome in ("hit", "miss"))
    title = f"recommendation service ({replicas} at work), {users:,} users, {items:,} items"
    table = Table(title=title, show_header=False)
    for what, value in {
        "requests": f"{lists.requests:,} at {rate:g}/s, {lists.failed} failed, {lists.degraded_share:.1%} degraded",
        "latency": f"p50 {lists.p50_ms:.1f} ms, p90 {lists.p90_ms:.1f} ms, p99 {lists.p99_ms:.1f} ms",
        "longest": f"{lists.max_ms:.1f} ms",
        "views and clicks": f"{result.summary('interactions').failed} requests failed" if feedback else "none sent",
        "CPU a request": f"service {cpu[0]}, stream worker {cpu[1]}",
        "item rows from the cache": f"{hits / (hits + misses):.1%}",
    }.items():
        table.add_row(what, value)
    console = Console()
    console.print(table)
    console.print(machine(result), soft_wrap=True)
    hops = Table("hop", "mean ms", title="by hop")
    for name, hop in counted:
        if name == "hop_seconds_sum":
            hops.add_row(hop, f"{1000 * counted[name, hop] / counted['hop_seconds_count', hop]:.2f}")
    console.print(hops)


if __name__ == "__main__":
    typer.run(main)
