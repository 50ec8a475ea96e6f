"""`whiteboard privacy …`: pseudonyms, exports and erasure (docs/security.md).

whiteboard privacy pseudonym c-12
whiteboard privacy export --topic fraud.decisions --out decisions.parquet
whiteboard privacy erase --customer c-12 --system fraud
"""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from whiteboard.erase import Erasure

app = typer.Typer(help="Persons in the data: pseudonyms, exports, erasure.", no_args_is_help=True)


@app.command(epilog="Example: grep $(whiteboard privacy pseudonym c-12) .whiteboard/logs/*.log")
def pseudonym(
    person: Annotated[str, typer.Argument(help="a customer's or user's id")],
) -> None:
    """Prints what logs, exports and reports of this home call a person."""
    from whiteboard.pseudonyms import pseudonyms
    from whiteboard.settings import Settings

    Console().print(pseudonyms(Settings())(person), highlight=False)


@app.command(epilog="Example: whiteboard privacy export --topic fraud.scores --out scores.csv --since 2026-02-01")
def export(
    topic: Annotated[str, typer.Option(help="of the lake, such as fraud.transactions or fraud.scores")],
    out: Annotated[Path, typer.Option(help="file to write: .parquet, .csv or .json")],
    since: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="first event day [default: all]")] = None,
    identified: Annotated[
        bool, typer.Option("--identified", help="with the ids themselves: personal data leaves the home")
    ] = False,
) -> None:
    """Writes events of the lake to a file, with pseudonyms in place of customers and users."""
    from whiteboard.export import export as write
    from whiteboard.fraud.routes import ROUTES as FRAUD
    from whiteboard.recommendation.routes import ROUTES as RECOMMENDATION
    from whiteboard.settings import Settings

    kinds = {**FRAUD.sunk, **RECOMMENDATION.sunk}
    rows = write(Settings(), topic, out, kinds=kinds, since=since.date() if since else None, identified=identified)
    named = "[yellow]with their ids[/]" if identified else "by pseudonym"
    Console().print(f"{rows:,} rows of {topic} in {out}, persons {named}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: whiteboard privacy erase --customer c-12 --system fraud --out erased.json")
def erase(
    customer: Annotated[str | None, typer.Option(help="id of a customer of the fraud system")] = None,
    user: Annotated[str | None, typer.Option(help="id of a user of the recommendation system")] = None,
    system: Annotated[str | None, typer.Option(help="fraud or recommendation [default: whose id it is]")] = None,
    out: Annotated[Path | None, typer.Option(help="write what was found as JSON")] = None,
) -> None:
    """Removes one person from lake, online store, training sets, reports and logs, and keeps their past from returning.

    May run while workers and services do, may be killed, and may be repeated. What it does not reach it lists.
    """
    import json

    from rich.progress import Progress

    from whiteboard.erase import erase as take_out
    from whiteboard.fraud.privacy import CUSTOMER
    from whiteboard.fraud.routes import ROUTES as FRAUD
    from whiteboard.recommendation.privacy import USER
    from whiteboard.recommendation.routes import ROUTES as RECOMMENDATION
    from whiteboard.settings import Settings

    given = [found for found in ((customer, FRAUD, CUSTOMER), (user, RECOMMENDATION, USER)) if found[0]]
    if len(given) != 1:
        raise typer.BadParameter("say who: either --customer ID or --user ID")
    person, routes, subject = given[0]
    if system not in (None, routes.system):
        raise typer.BadParameter(f"--system {system!r} holds no {subject.name}s; those are in {routes.system}")
    assert person is not None
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("files")
        done = take_out(
            Settings(), routes, subject, person, lambda at, total: bar.update(task, completed=at, total=total)
        )
    if out is not None:
        out.write_text(json.dumps(done.as_dict(), indent=2) + "\n")
    _tell(done)


def _tell(done: "Erasure") -> None:
    from rich.table import Table

    table = Table("place", title=f"erased from {done.system} until {done.until}", title_justify="left")
    for column in ("removed", "kept as nobody's"):
        table.add_column(column, justify="right")
    for name, place in sorted(done.places.items()):
        table.add_row(name, f"{place.removed:,}", f"{place.kept:,}")
    console = Console()
    console.print(table)
    for name, until in done.remains.items():
        console.print(f"not reached: {name}: {until}", highlight=False)
