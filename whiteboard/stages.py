"""The commands that are the same for every system: `whiteboard <system> evaluate|promote|drift`, and their options.

    add_stages(app, "fraud", steps=…, promote=…)

A system's own commands stand in `whiteboard/<system>/cli.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    from whiteboard.promotion import Verdict
    from whiteboard.settings import Settings
    from whiteboard.steps import Steps

NOTHING = 99  # the exit code of "no": refused, no drift, no data yet. Airflow's BashOperator shows it as skipped.
MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]


def day_or_moment(text: str) -> date:
    """`2026-03-04` as that day, `2026-03-04T12:15:00` as that moment, in UTC if it says no zone."""
    with suppress(ValueError):
        return date.fromisoformat(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a day (2026-03-04) nor a moment (2026-03-04T12:15:00)") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


AsOf = Annotated[
    date,
    typer.Option(
        "--as-of",
        parser=day_or_moment,
        metavar="DAY|MOMENT",
        help="use only what was known when that day ended, or at that moment (UTC)",
    ),
]
MaybeAsOf = Annotated[
    date | None,
    typer.Option(
        "--as-of",
        parser=day_or_moment,
        metavar="DAY|MOMENT",
        help="use only what was known when that day ended, or at that moment (UTC) [default: everything]",
    ),
]
Sql = Annotated[bool, typer.Option("--sql", help="print the SQL that computes them point in time")]
SqlDialect = Annotated[Literal["duckdb", "spark"], typer.Option("--dialect", help="whose SQL")]
OfflineExecutor = Annotated[
    Literal["duckdb", "spark"] | None,
    typer.Option("--executor", help="who computes the features \\[default: WHITEBOARD_OFFLINE_EXECUTOR, or duckdb]"),
]
Master = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Spark's \\[default: WHITEBOARD_SPARK_MASTER, or local\\[*]: this machine]"),
]
Distributed = Annotated[
    str, typer.Option(metavar="local:N|ADDRESS", help="fit the trees by N worker processes, or at a Dask scheduler")
]


def offline_settings(executor: Literal["duckdb", "spark"] | None, master: str | None) -> "Settings":
    """The settings, with the executor and master of the command line if it names them."""
    from whiteboard.settings import Settings

    given = {"offline_executor": executor, "spark_master": master}
    return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


@contextmanager
def too_little_is_no_error() -> Iterator[None]:
    """Ends the command with NOTHING, and the reason, when there is not enough data."""
    from whiteboard.errors import NotEnoughDataError

    try:
        yield
    except NotEnoughDataError as error:
        Console().print(f"nothing to do: {error}", highlight=False)
        raise typer.Exit(NOTHING) from error


def add_stages(
    app: typer.Typer,
    system: str,
    steps: "Callable[[], Steps[Any, Any]]",
    promote_version: "Callable[[Settings, str | None], Verdict]",
) -> None:
    """Adds `evaluate`, `promote` and `drift` to the system's commands; `steps` is asked when one of them runs."""

    @app.command(epilog=f"Example: whiteboard {system} evaluate --as-of 2026-03-04")
    def evaluate(as_of: AsOf) -> None:
        """Evaluates the model fitted for a day and registers it, once, with its metrics and plots."""
        from whiteboard.settings import Settings

        Console().print(f"version {steps().evaluate(Settings(), as_of).version} is registered")

    @app.command(epilog=f"Example: whiteboard {system} promote")
    def promote(
        version: Annotated[str | None, typer.Option(help="[default: the challenger]")] = None,
        as_of: Annotated[
            date | None,
            typer.Option(
                parser=day_or_moment, metavar="DAY|MOMENT", help="the version that `evaluate --as-of` registered"
            ),
        ] = None,
    ) -> None:
        """Lets a version through the gates to @champion, or refuses it with reasons; exit code 99 if refused."""
        from whiteboard.settings import Settings

        if version and as_of:
            raise typer.BadParameter("give --version or --as-of, not both")
        verdict = steps().judge(Settings(), as_of) if as_of else promote_version(Settings(), version)
        Console().print(verdict.as_table())
        raise typer.Exit(0 if verdict.promoted else NOTHING)

    @app.command(
        epilog=f"Example: whiteboard {system} drift --since 2026-03-04 --until 2026-03-05 && whiteboard {system} train"
    )
    def drift(
        since: Annotated[datetime, typer.Option(formats=MOMENTS, help="from this moment on (UTC)")],
        until: Annotated[datetime, typer.Option(formats=MOMENTS, help="and before this one (UTC)")],
    ) -> None:
        """Says whether the monitor has asked for a retrain between two moments; exit code 99 if not."""
        from whiteboard.judgements import asks_for_retrain
        from whiteboard.settings import Settings

        messages = asks_for_retrain(Settings(), system, since.replace(tzinfo=UTC), until.replace(tzinfo=UTC))
        Console().print("\n".join(messages) or f"nothing asked for a retrain from {since} to {until}", highlight=False)
        raise typer.Exit(0 if messages else NOTHING)
