"""`whiteboard privacy …`: pseudonyms, exports and erasure (docs/security.md).

whiteboard privacy pseudonym c-12
whiteboard privacy export --topic fraud.decisions --out decisions.parquet
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

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
