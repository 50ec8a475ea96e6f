"""`whiteboard fraud …`: one command a stage, the same verbs in every system."""

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
    from whiteboard.promotion import Verdict
    from whiteboard.settings import Settings
    from whiteboard.steps import Steps

app = typer.Typer(help="Fraud detection, stage by stage.", no_args_is_help=True)

TransactionsFile = Annotated[
    Path | None,
    typer.Option("--transactions", exists=True, dir_okay=False, help="Parquet or CSV, see the README for its columns"),
]
Day = Annotated[datetime, typer.Option(formats=["%Y-%m-%d"])]


Tuning = Annotated[float, typer.Option(min=0, help="seconds for Optuna; 0 keeps the defaults")]


@app.command(epilog="Example: whiteboard fraud features --sql --dialect spark | less")
def features(sql: Sql = False, dialect: SqlDialect = "duckdb") -> None:
    """Lists the features, or prints the SQL that computes them point in time."""
    from whiteboard.dialects import DIALECTS
    from whiteboard.fraud.features import FEATURES, point_in_time_sql

    if sql:
        relations = ("rows_to_score", "fraud_transactions", "fraud_labels")
        typer.echo(point_in_time_sql(*relations, "created", DIALECTS[dialect]))
    else:
        typer.echo("\n".join(FEATURES))


@app.command(epilog="Example: whiteboard fraud simulate --customers 500 --days 60 --out world")
def simulate(
    out: Annotated[Path, typer.Option(help="folder for transactions.parquet and truth.parquet")] = Path("world"),
    customers: Annotated[int, typer.Option(min=1)] = 5_000,
    terminals: Annotated[int | None, typer.Option(min=1, help="[default: twice the customers]")] = None,
    start: Day = datetime(2018, 4, 1),
    days: Annotated[int, typer.Option(min=2)] = 183,
    seed: int = 0,
    shift_day: Annotated[int | None, typer.Option(help="day on which the fraud pattern changes")] = None,
    late_share: Annotated[float, typer.Option(min=0, max=1, help="share of events that arrive late")] = 0.0,
    hot_share: Annotated[float, typer.Option(min=0, max=1, help="share of traffic on a few hot keys")] = 0.0,
) -> None:
    """Simulates a world of cards and terminals; the defaults are those of the Fraud Detection Handbook."""
    from whiteboard.fraud.world import WorldConfig
    from whiteboard.fraud.world import simulate as run

    config = WorldConfig(
        customers=customers,
        terminals=terminals or 2 * customers,
        start=start.date(),
        days=days,
        seed=seed,
        shift_day=shift_day,
        late_share=late_share,
        hot_share=hot_share,
    )
    world = run(config)
    path = world.save(out)
    frauds = int(world.transactions["is_fraud"].sum())
    share = frauds / max(1, len(world.transactions))
    Console().print(f"{len(world.transactions):,} transactions, {frauds:,} frauds ({share:.2%}) in {path}")


@app.command(epilog="Example: whiteboard fraud ingest --transactions world/transactions.parquet")
def ingest(transactions: TransactionsFile) -> None:
    """Sends a file of transactions, and the labels in it, through the event log."""
    from rich.progress import Progress

    from whiteboard.embedded import connected
    from whiteboard.fraud.ingest import ingest as run
    from whiteboard.fraud.ingest import read_transactions
    from whiteboard.settings import Settings

    if transactions is None:
        raise typer.BadParameter("--transactions FILE is needed")
    frame = read_transactions(transactions)
    with Progress() as bar:
        task = bar.add_task("transactions and labels")
        result = run(
            connected(Settings()), frame, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    Console().print(
        f"{result.transactions:,} transactions and {result.labels:,} labels sent, {result.events_per_s:,.0f} events/s"
    )


@app.command(epilog="Example: whiteboard fraud dataset --as-of 2026-03-04 --executor spark")
def dataset(as_of: AsOf, executor: OfflineExecutor = None, master: Master = None) -> None:
    """Builds the point-in-time training set of a day, into HOME/training; exit code 99 if it would be empty."""
    from pipelines.fraud.as_of import STEPS

    with too_little_is_no_error():
        built = STEPS.dataset(offline_settings(executor, master), as_of)
    frauds = int(built.is_fraud.sum())
    Console().print(f"{len(built):,} labelled payments with {frauds:,} frauds, fingerprint {built.fingerprint}")


@app.command(epilog="Example: whiteboard fraud fit --as-of 2026-03-04")
def fit(as_of: AsOf, tuning_s: Tuning = 0.0, seed: int = 0, distributed: Distributed = "") -> None:
    """Fits a model to the data set of a day, into HOME/training; exit code 99 if it has too few frauds.

    Repeated, it gives the same model, unless it may tune: what Optuna finds depends on how fast the machine is.
    """
    from pipelines.fraud.as_of import STEPS
    from pipelines.fraud.train import TrainConfig
    from whiteboard.settings import Settings

    with too_little_is_no_error():
        candidate = STEPS.fit(Settings(), as_of, TrainConfig(seed=seed, tuning_s=tuning_s, distributed=distributed))
    Console().print(f"candidate in {candidate}")


@app.command(epilog="Example: whiteboard fraud train --tuning-s 60 --executor spark --distributed local:2")
def train(
    as_of: MaybeAsOf = None,
    tuning_s: Tuning = 30.0,
    seed: int = 0,
    executor: OfflineExecutor = None,
    master: Master = None,
    distributed: Distributed = "",
) -> None:
    """Builds the point-in-time training set, trains, evaluates, and registers a challenger.

    With --as-of it does what `dataset`, `fit` and `evaluate` do one by one. --executor says who computes the features,
    --distributed who fits the trees: other machines, when one is not enough.
    """
    from pipelines.fraud.as_of import STEPS
    from pipelines.fraud.dataset import build
    from pipelines.fraud.train import TrainConfig
    from pipelines.fraud.train import train as run

    settings = offline_settings(executor, master)
    config = TrainConfig(seed=seed, tuning_s=tuning_s, distributed=distributed)
    if as_of is None:
        version = run(settings, build(settings), config).version
    else:
        STEPS.dataset(settings, as_of)
        STEPS.fit(settings, as_of, config)
        version = STEPS.evaluate(settings, as_of).version
    Console().print(f"version {version} is registered")


@app.command(epilog="Example: whiteboard fraud score --day 2026-02-20")
def score(day: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="event day")]) -> None:
    """Scores one day of transactions in the lake, into HOME/lake/fraud.scores; exit code 99 if it has none.

    The model is the one that was champion when that day began, so that a repetition gives the same scores.
    """
    from pipelines.fraud.batch_score import score_day
    from whiteboard.settings import Settings

    with too_little_is_no_error():
        path = score_day(Settings(), day.date())
    Console().print(f"scores in {path}")


@app.command(
    epilog="Example: whiteboard fraud backtest --simulate handbook --train-start 2018-07-25 --weeks 5 --out result.json"
)
def backtest(
    transactions: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Parquet or CSV, see the README for its columns")
    ] = None,
    simulate: Annotated[
        str | None, typer.Option(help='"handbook": simulate that world; --transactions then says where to keep it')
    ] = None,
    train_start: Day = datetime(2018, 7, 25),
    train_days: Annotated[int, typer.Option(min=1)] = 7,
    delay_days: Annotated[int, typer.Option(min=0)] = 7,
    test_days: Annotated[int, typer.Option(min=1)] = 7,
    weeks: Annotated[int, typer.Option(min=1, help="consecutive test weeks")] = 1,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="where to write the result as JSON")] = Path("result.json"),
) -> None:
    """Trains on the past and tests on the future, by the protocol of the Fraud Detection Handbook."""
    from pipelines.fraud.backtest import backtest as run
    from pipelines.fraud.backtest import print_table
    from whiteboard.fraud.ingest import read_transactions
    from whiteboard.fraud.world import WorldConfig
    from whiteboard.fraud.world import simulate as simulate_world

    if simulate not in (None, "handbook"):
        raise typer.BadParameter(f"{simulate!r} is not a world; there is: handbook")
    truth = None
    if simulate:
        world = simulate_world(WorldConfig(seed=seed))
        frame, truth = world.transactions, world.truth
        if transactions is not None:
            frame.to_parquet(transactions, index=False)
    elif transactions is not None and transactions.exists():
        frame = read_transactions(transactions)
    else:
        raise typer.BadParameter(f"--transactions: found {transactions}, expected a file; or say --simulate handbook")
    result = run(
        frame,
        truth=truth,
        train_start=train_start.date(),
        train_days=train_days,
        delay_days=delay_days,
        test_days=test_days,
        weeks=weeks,
        seed=seed,
        out=out,
    )
    Console().print(print_table(result))
    Console().print(f"full result in {out}")


def _steps() -> "Steps[Any, Any]":
    from pipelines.fraud.as_of import STEPS

    return STEPS


def _promote(settings: "Settings", version: str | None) -> "Verdict":
    from pipelines.fraud.promote import promote

    return promote(settings, version)


add_stages(app, "fraud", _steps, _promote)
