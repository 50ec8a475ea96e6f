"""`whiteboard spool`: what waits on the disk for the event log, of every service of a home."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec import Struct

from whiteboard.spool import WRITER_LOCK, Checkpoint, checkpoint, end, lock, meta, segments, waiting_bytes


class SpoolState(Struct):
    """One spool. `kept_mb` is what was sent and has not reached the lake, as far as it is known."""

    spool: str
    service: str  # running or gone
    waiting: int
    waiting_mb: float
    kept_mb: float
    lost: dict[str, int]
    problem: str


def states(spool_dir: Path) -> list[SpoolState]:
    """Every spool below `spool_dir`, by name."""
    return [_state(folder) for folder in sorted(spool_dir.glob("*")) if meta(folder) is not None]


def _state(folder: Path) -> SpoolState:
    point = checkpoint(folder) or Checkpoint()
    held = lock(folder / WRITER_LOCK)
    if held is not None:
        held.close()
    waiting = end(folder) - point.next
    waiting_mb = waiting_bytes(folder, point.next) / 1e6 if waiting else 0.0
    total_mb = sum(segment.stat().st_size for segment in segments(folder)) / 1e6
    service = "running" if held is None else "gone"
    return SpoolState(
        folder.name, service, waiting, waiting_mb, total_mb - waiting_mb, point.lost, point.problem if waiting else ""
    )


def spool(
    home: Annotated[Path | None, typer.Option(help="where all state lives [default: .whiteboard]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Shows what services have promised and the event log has not acknowledged yet; it waits on the disk."""
    from rich.console import Console
    from rich.table import Table

    from whiteboard.settings import Settings

    settings = Settings() if home is None else Settings(home=home)
    found = states(settings.spool_dir)
    if as_json:
        typer.echo(msgspec.json.encode(found))
        return
    table = Table("spool", "service", "events waiting", "MB", "sent and kept, MB", "lost", "why", title_justify="left")
    for state in found:
        lost = str(sum(state.lost.values()))
        sizes = f"{state.waiting_mb:.1f}", f"{state.kept_mb:.1f}"
        table.add_row(state.spool, state.service, f"{state.waiting:,}", *sizes, lost, state.problem)
    Console().print(table if found else f"no service has written to {settings.spool_dir} yet")
