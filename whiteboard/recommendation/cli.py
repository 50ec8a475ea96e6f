"""`whiteboard recommendation …`: one command a stage, the same verbs in every system."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from whiteboard.stages import (
    AsOf,
    Distributed,
    Master,
    MaybeAsOf,
    OfflineExecutor,
    Sql,
    SqlDialect,
    add_stages,
    offline_settings,
    too_little_is_no_error,
)

if TYPE_CHECKING:
    import pandas as pd

    from whiteboard.promotion import Verdict
    from whiteboard.settings import Settings
    from whiteboard.steps import Steps

app = typer.Typer(help="Recommendation, stage by stage.", no_args_is_help=True)

InteractionsFile = Annotated[
    Path | None,
    typer.Option("--interactions", exists=True, dir_okay=False, help="Parquet or CSV, see the README for its columns"),
]
ItemsFile = Annotated[
    Path | None,
    typer.Option("--items", exists=True, dir_okay=False, help="Parquet or CSV, see the README for its columns"),
]
Day = Annotated[datetime, typer.Option(formats=["%Y-%m-%d"])]


@app.command(epilog="Example: whiteboard recommendation simulate --users 500 --items 400 --days 30 --out world")
def simulate(
    out: Annotated[Path, typer.Option(help="folder for items, interactions, impressions and the truth")] = Path(
        "world"
    ),
    users: Annotated[int, typer.Option(min=1)] = 10_000,
    items: Annotated[int, typer.Option(min=1)] = 5_000,
    start: Day = datetime(2026, 1, 1),
    days: Annotated[int, typer.Option(min=2)] = 60,
    seed: int = 0,
    shift_day: Annotated[int | None, typer.Option(help="day on which the tastes shift")] = None,
) -> None:
    """Simulates a world of users and items: what was shown, examined, clicked and bought."""
    from rich.progress import Progress

    from whiteboard.recommendation.population import WorldConfig
    from whiteboard.recommendation.world import simulate as run

    config = WorldConfig(users=users, items=items, start=start.date(), days=days, seed=seed, shift_day=shift_day)
    with Progress() as bar:
        task = bar.add_task("days")
        world = run(config, progress=lambda done, total: bar.update(task, completed=done, total=total))
    world.save(out)
    Console().print(
        f"{len(world.interactions):,} interactions with {len(world.items):,} items, "
        f"{world.shown['request_id'].nunique():,} lists shown in {out}"
    )


@app.command(epilog="Example: whiteboard recommendation ingest --interactions clicks.parquet --items items.parquet")
def ingest(interactions: InteractionsFile = None, items: ItemsFile = None) -> None:
    """Sends a file of interactions, and the catalogue they are with, through the event log."""
    from rich.progress import Progress

    from whiteboard.embedded import connected
    from whiteboard.recommendation.ingest import ingest as run
    from whiteboard.recommendation.ingest import read_interactions, read_items
    from whiteboard.settings import Settings

    if interactions is None or items is None:
        raise typer.BadParameter("--interactions FILE and --items FILE are needed")
    catalogue = read_items(items)
    frame = read_interactions(interactions, catalogue)
    with Progress() as bar:
        task = bar.add_task("items and interactions")
        run(
            connected(Settings()),
            catalogue,
            frame,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    Console().print(f"{len(frame):,} interactions and {len(catalogue):,} items sent")


@app.command(epilog="Example: whiteboard recommendation features --sql --dialect spark | less")
def features(sql: Sql = False, dialect: SqlDialect = "duckdb") -> None:
    """Lists the features of showing an item to a user, or prints the SQL that computes them point in time."""
    from whiteboard.dialects import DIALECTS
    from whiteboard.recommendation.features import FEATURES, point_in_time_sql

    if sql:
        typer.echo(point_in_time_sql("shown", "interactions", "created", DIALECTS[dialect]))
    else:
        typer.echo("\n".join(FEATURES))


@app.command(epilog="Example: whiteboard recommendation dataset --as-of 2026-03-04 --executor spark")
def dataset(as_of: AsOf, executor: OfflineExecutor = None, master: Master = None) -> None:
    """Builds the point-in-time training set of a day, into HOME/training; exit code 99 if it would be empty."""
    from pipelines.recommendation.as_of import STEPS

    with too_little_is_no_error():
        built = STEPS.dataset(offline_settings(executor, master), as_of)
    counts = ", ".join(f"{count:,} {name}" for name, count in built.counts.items())
    Console().print(f"{counts}, fingerprint {built.fingerprint}")


@app.command(epilog="Example: whiteboard recommendation fit --as-of 2026-03-04")
def fit(as_of: AsOf, seed: int = 0, distributed: Distributed = "") -> None:
    """Fits a model to the data set of a day, into HOME/training; exit code 99 if it has too few clicks."""
    from pipelines.recommendation.as_of import STEPS
    from pipelines.recommendation.train import TrainConfig
    from whiteboard.settings import Settings

    with too_little_is_no_error():
        candidate = STEPS.fit(Settings(), as_of, TrainConfig(seed=seed, distributed=distributed))
    Console().print(f"candidate in {candidate}")


@app.command(epilog="Example: whiteboard recommendation train --executor spark --distributed local:2")
def train(
    as_of: MaybeAsOf = None,
    seed: int = 0,
    executor: OfflineExecutor = None,
    master: Master = None,
    distributed: Distributed = "",
) -> None:
    """Builds the point-in-time training set, trains, evaluates, and registers a challenger.

    With --as-of it does what `dataset`, `fit` and `evaluate` do one by one. --executor says who computes the features,
    --distributed who fits the trees: other machines, when one is not enough.
    """
    from pipelines.recommendation.as_of import STEPS
    from pipelines.recommendation.dataset import build
    from pipelines.recommendation.train import TrainConfig
    from pipelines.recommendation.train import train as run

    settings, config = offline_settings(executor, master), TrainConfig(seed=seed, distributed=distributed)
    if as_of is None:
        registered = run(settings, build(settings), config)
        version = registered.version
        shares = ", ".join(f"{name} {share:.2f}" for name, share in registered.trained.recall.items())
        Console().print(f"likes that are among 300 candidates: {shares}", highlight=False, soft_wrap=True)
    else:
        STEPS.dataset(settings, as_of)
        STEPS.fit(settings, as_of, config)
        version = STEPS.evaluate(settings, as_of).version
    Console().print(f"version {version} is registered")


@app.command(epilog="Example: whiteboard recommendation score --day 2026-02-20")
def score(day: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="event day")]) -> None:
    """Recommends to all users as of the end of a day, into lake and online store; exit code 99 if none is known.

    The model is the one that was champion when that day began, so that a repetition gives the same lists.
    """
    from rich.progress import Progress

    from pipelines.recommendation.batch_score import score_day
    from whiteboard.settings import Settings

    with too_little_is_no_error(), Progress() as bar:
        task = bar.add_task("users")
        path = score_day(Settings(), day.date(), lambda done, total: bar.update(task, completed=done, total=total))
    Console().print(f"recommendations in {path}")


@app.command(epilog="Example: whiteboard recommendation off-policy --lists lists.parquet --day 2026-02-21")
def off_policy(
    lists: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Parquet: user_id, item_ids, scores")],
    day: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="first day of the log")],
    days: Annotated[int, typer.Option(min=1)] = 1,
    out: Annotated[Path, typer.Option(help="where to write the result as JSON")] = Path("off-policy.json"),
) -> None:
    """What other lists, such as those that `score` writes, would have earned on past days, by the log alone."""
    import json

    import pandas as pd
    from rich.table import Table

    from pipelines.recommendation.off_policy import judge
    from whiteboard.settings import Settings

    found = judge(Settings(), pd.read_parquet(lists), day.date(), days=days)
    out.write_text(json.dumps(found.as_dict(), indent=2))
    title = f"Clicks a request, {found.requests:,} requests; the log earned {found.earned:.3f}"
    table = Table("estimate", "value", "95 %", title=title, title_justify="left")
    for name, estimate in found.estimates.items():
        table.add_row(name, f"{estimate.value:.3f}", f"{estimate.low:.3f} to {estimate.high:.3f}")
    table.caption = f"the log can speak of {found.supported:.0%} of what the lists would have put before users' eyes"
    Console().print(table)


@app.command(epilog="Example: whiteboard recommendation backtest --interactions ratings.csv --split temporal-user")
def backtest(
    interactions: InteractionsFile = None,
    items: ItemsFile = None,
    movielens: Annotated[
        str | None, typer.Option(help="100k or latest-small: ratings out of the extra 'movielens' instead of a file")
    ] = None,
    split: Annotated[str, typer.Option(help="random (by item), temporal-user or temporal")] = "random",
    test_fraction: Annotated[float, typer.Option(min=0.01, max=0.9)] = 0.25,
    k: Annotated[int, typer.Option(min=1, help="length of the lists")] = 10,
    seed: int = 0,
    seeds: Annotated[int, typer.Option(min=1, help="runs to average over, from --seed on")] = 1,
    out: Annotated[Path, typer.Option(help="where to write the result as JSON")] = Path("result.json"),
) -> None:
    """Recommends from one part of the interactions and tests on the other: every source, their blend, a re-ranker."""
    from pipelines.recommendation.backtest import backtest as run
    from pipelines.recommendation.backtest import print_table
    from pipelines.recommendation.splits import SPLITS, as_split

    if split not in SPLITS:
        raise typer.BadParameter(f"--split: {split!r} is none of {', '.join(SPLITS)}")
    frame, catalogue = _data(interactions, items, movielens)
    result = run(
        frame, catalogue, how=as_split(split), test_fraction=test_fraction, k=k, seed=seed, seeds=seeds, out=out
    )
    Console().print(print_table(result))
    Console().print(f"{result['ships']} ships; full result in {out}, {result['seconds']:.0f} s")


def _data(
    interactions: Path | None, items: Path | None, movielens: str | None
) -> "tuple[pd.DataFrame, pd.DataFrame | None]":
    if interactions is not None and movielens is None:
        from whiteboard.recommendation.ingest import read_interactions, read_items

        catalogue = read_items(items) if items else None
        return read_interactions(interactions, catalogue), catalogue
    if movielens is None or interactions is not None:
        raise typer.BadParameter("give either --interactions FILE or --movielens SAMPLE")
    from pipelines.recommendation.movielens import SAMPLES, load

    if movielens not in SAMPLES:
        raise typer.BadParameter(f"--movielens: {movielens!r} is none of {', '.join(SAMPLES)}")
    return load(movielens)


def _steps() -> "Steps[Any, Any]":
    from pipelines.recommendation.as_of import STEPS

    return STEPS


def _promote(settings: "Settings", version: str | None) -> "Verdict":
    from pipelines.recommendation.promote import promote

    return promote(settings, version)


add_stages(app, "recommendation", _steps, _promote)
