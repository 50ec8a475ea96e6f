"""`whiteboard fraud …`: one command a stage, the same verbs in every system."""

from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(help="Fraud detection, stage by stage.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="where to write the result")]
Transactions = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="Parquet or CSV of the transactions contract")
]


@app.command(epilog="Example: whiteboard fraud features --sql | less")
def features(sql: Annotated[bool, typer.Option("--sql", help="print the generated DuckDB SQL")] = False) -> None:
    """Lists the features, or prints the SQL that computes them point in time."""
    from whiteboard.fraud.features import FEATURES, point_in_time_sql

    if sql:
        typer.echo(point_in_time_sql("rows_to_score", "fraud_transactions", "fraud_labels", "created"))
    else:
        typer.echo("\n".join(FEATURES))
