"""Candidate generation: what a request costs, and what the ANN index gives against the exact search.

    .venv/bin/python -m bench.retrieval --items 5000 --users 10000

A made-up catalogue and clicks with tastes; one thread. The first table times one user with 50 recent items, source by
source and all together; the second compares usearch's graph with the exact cosine of all items (recall@k of the index
within the exact top k, queries/s of both).
"""

import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from whiteboard.recommendation.candidates import RECENT, Retrieval
from whiteboard.recommendation.similarity import Content

CATEGORIES = 60
WORDS = 3_000
CLICKS_A_USER = 40


def made_up(users: int, items: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Interactions and items: popularity is long-tailed, a user clicks mostly within three categories."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, CATEGORIES, items)
    words = rng.integers(0, WORDS, (items, 4))
    catalogue = pd.DataFrame(
        {
            "item_id": [f"i-{i:05d}" for i in range(items)],
            "title": [" ".join(f"w{word}" for word in row) for row in words],
            "categories": [
                f"c{main}|c{(main + word) % CATEGORIES}" for main, word in zip(kind, words[:, 0], strict=True)
            ],
        }
    )
    popularity = 1 / np.arange(1, items + 1) ** 0.8
    taste = rng.integers(0, CATEGORIES, (users, 3))
    n = users * CLICKS_A_USER
    user = np.repeat(np.arange(users), CLICKS_A_USER)
    clicked = rng.choice(items, n, p=popularity / popularity.sum())
    wanted = (kind[clicked][:, None] == taste[user]).any(axis=1) | (rng.random(n) < 0.1)
    at = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(rng.integers(0, 30 * 86_400, n), unit="s")
    rows = pd.DataFrame({"user_id": [f"u-{u}" for u in user], "event_timestamp": at, "event_type": "click"})
    rows["item_id"] = catalogue["item_id"].to_numpy()[clicked]
    return rows[wanted].sort_values("event_timestamp", ignore_index=True), catalogue


def milliseconds(call: Callable[[Any], Any], arguments: list[Any]) -> tuple[float, float]:
    """Median and 99th percentile of a call, after one to warm up."""
    call(arguments[0])
    spent = []
    for argument in arguments:
        began = time.perf_counter()
        call(argument)
        spent.append((time.perf_counter() - began) * 1e3)
    return float(np.median(spent)), float(np.quantile(spent, 0.99))


def online(retrieval: Retrieval, recents: list[list[str]]) -> Table:
    """What one request costs, by source."""
    ages = np.linspace(0, 300, len(retrieval.item_ids)).astype(np.float32)
    codes = [retrieval.known(recent) for recent in recents]
    timed: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
        "EDLAE": (retrieval.autoencoder.scores, codes),
        "ALS, folded in": (retrieval.als.scores, codes),
        "co-visitation": (retrieval.session_scores, codes),
        "content, ANN": (lambda liked: retrieval.content.nearest(liked, 100), codes),
        "content, exact": (retrieval.content.scores, codes),
        "all: 300 candidates": (lambda r: retrieval.candidates(r, consumed=r, age_days=ages), list(recents)),
    }
    table = Table("one user", "median ms", "p99 ms", title=f"{len(retrieval.item_ids):,} items, {RECENT} recent items")
    for name, (call, arguments) in timed.items():
        median, high = milliseconds(call, arguments)
        table.add_row(name, f"{median:.2f}", f"{high:.2f}")
    return table


def index(content: Content, queries: int, seed: int) -> Table:
    """The index against the exact search."""
    asked = np.random.default_rng(seed).integers(0, len(content.vectors), (queries, 3))
    began = time.perf_counter()
    content.index  # noqa: B018 (built on first use)
    built_s = time.perf_counter() - began
    title = f"{len(content.vectors):,} vectors, index built in {built_s:.1f} s"
    table = Table("k", "recall", "ANN queries/s", "exact queries/s", title=title)
    for k in (10, 100):
        exact, found = [], []
        began = time.perf_counter()
        for row in asked:
            scores = content.scores(row)
            best = np.argpartition(-scores, k)[:k]
            exact.append(scores[best].min())
        exact_s = time.perf_counter() - began
        began = time.perf_counter()
        for row in asked:
            found.append(content.nearest(row, k)[1])
        ann_s = time.perf_counter() - began
        near = [(cosines >= limit - 1e-5).mean() for cosines, limit in zip(found, exact, strict=True)]
        table.add_row(str(k), f"{np.mean(near):.4f}", f"{queries / ann_s:,.0f}", f"{queries / exact_s:,.0f}")
    return table


def main(
    users: Annotated[int, typer.Option(min=100)] = 10_000,
    items: Annotated[int, typer.Option(min=500)] = 5_000,
    queries: Annotated[int, typer.Option(min=10)] = 1_000,
    vectors: Annotated[int, typer.Option(min=500, help="a larger catalogue for the index alone")] = 50_000,
    seed: int = 0,
) -> None:
    """Fits all sources and prints the tables."""
    console = Console()
    with threadpool_limits(1):
        interactions, catalogue = made_up(users, items, seed)
        began = time.perf_counter()
        retrieval = Retrieval.fit(interactions, catalogue)
        console.print(f"{len(interactions):,} clicks, fitted in {time.perf_counter() - began:.1f} s on one thread")
        rng = np.random.default_rng(seed)
        recents = [rng.choice(interactions["item_id"], RECENT).tolist() for _ in range(queries)]
        console.print(online(retrieval, recents))
        console.print(index(retrieval.content, queries, seed))
        console.print(index(Content.fit(made_up(100, vectors, seed)[1]), queries, seed))


if __name__ == "__main__":
    typer.run(main)
