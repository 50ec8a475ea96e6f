"""`whiteboard keys …`: who may ask the services.

whiteboard keys add shop --rate 200
whiteboard keys list
whiteboard keys revoke shop
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from whiteboard.apikeys import KeyStore

app = typer.Typer(help="API keys: who may ask the services, and how often.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="of who holds it, such as shop; a-z, 0-9 and -")]


def _store() -> "KeyStore":
    from whiteboard.apikeys import KeyStore
    from whiteboard.settings import Settings

    return KeyStore(Settings())


@app.command(epilog="Example: whiteboard keys add shop --rate 200")
def add(
    name: Name,
    rate: Annotated[float, typer.Option(min=0.001, help="requests a second that each process takes")] = 1_000.0,
    out: Annotated[
        Path | None, typer.Option(help="write the key into this file, readable by you alone, instead of printing it")
    ] = None,
) -> None:
    """Makes a key and prints it once; only its digest is kept. Running services take it a second later."""
    store, console = _store(), Console()
    key = store.add(name, rate)
    if out is None:
        console.print(key, highlight=False, soft_wrap=True)
    else:
        out.touch(mode=0o600)
        out.write_text(f"{key}\n")
    kept = next(entry for entry in store.read() or [] if entry.name == name)
    note = Console(stderr=True)
    note.print("Send it as the header x-api-key; our own clients take it from WHITEBOARD_API_KEY.", highlight=False)
    note.print("For services that do not share this home, set there:", highlight=False)
    note.print(f"WHITEBOARD_API_KEYS={name}:{kept.digest}:{rate:g}", highlight=False, soft_wrap=True)


@app.command("list", epilog="Example: whiteboard keys list --json")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Shows the keys, without what would let anyone use them."""
    import json

    keys = _store().read() or []
    if as_json:
        shown = [{"name": key.name, "rate": key.rate, "created": key.created} for key in keys]
        typer.echo(json.dumps(shown, indent=2))
        return
    table = Table("name", "requests/s", "created", title=f"{len(keys)} API keys", title_justify="left")
    for key in keys:
        table.add_row(key.name, f"{key.rate:g}", key.created or "by WHITEBOARD_API_KEYS")
    Console().print(table)


@app.command(epilog="Example: whiteboard keys revoke shop")
def revoke(name: Name) -> None:
    """Removes a key; running services refuse it a second later."""
    _store().revoke(name)
    Console().print(f"{name} is revoked", highlight=False)
