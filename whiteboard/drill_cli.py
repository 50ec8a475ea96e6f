"""`whiteboard drill …`: break something on purpose, under load, and see whether what was promised is kept.

whiteboard drill list
whiteboard drill broker-down --rate 100 --seconds 10
whiteboard drill all --out results.json
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from whiteboard.drills.outcome import Drill, Outcome, Plan
    from whiteboard.drills.stage import Stage
    from whiteboard.settings import Settings

SYSTEMS = ("fraud", "recommendation")


def _names(name: str, system: str) -> "list[Drill]":
    from whiteboard.drills.catalogue import DRILLS

    able = {drill.name: drill for drill in DRILLS.values() if system in drill.systems}
    if name == "all":
        return list(able.values())
    if name not in able:
        raise typer.BadParameter(f"there is no drill {name!r} of {system}; there is: {', '.join(able)}, all, list")
    return [able[name]]


def stage_of(
    system: str,
    settings: "Settings",
    say: Callable[[str], None] = lambda step: None,
    *,
    size: int = 300,
    history_days: int = 30,
) -> "Stage":
    """The stage of that system, not yet started; `say` hears each step of its foundation.

    `size` is the number of customers; of users there are twice as many, with half the history.
    """
    if system == "fraud":
        from pipelines.fraud.bootstrap import bootstrap as found_fraud
        from whiteboard.drills.fraud import FraudStage
        from whiteboard.drills.fraud import world as payments

        payers = payments(size, history_days, seed=7)
        return FraudStage(settings, lambda connected: found_fraud(connected, payers, tuning_s=0, say=say))
    from pipelines.recommendation.bootstrap import bootstrap as found_recommendation
    from whiteboard.drills.recommendation import RecommendationStage
    from whiteboard.drills.recommendation import world as feed

    users = feed(2 * size, max(14, history_days // 2), seed=7)
    return RecommendationStage(settings, lambda connected: found_recommendation(connected, users, say=say))


def drill(
    fault: Annotated[str, typer.Argument(help="which one; `list` shows them, `all` runs them one after the other")],
    system: Annotated[str, typer.Option(help=f"one of {', '.join(SYSTEMS)}")] = "fraud",
    rate: Annotated[float, typer.Option(min=1, help="requests a second")] = 100.0,
    seconds: Annotated[float, typer.Option(min=1, help="how long the fault lasts")] = 10.0,
    home: Annotated[Path | None, typer.Option(help="emptied, and used [default: HOME/drills/SYSTEM]")] = None,
    out: Annotated[Path | None, typer.Option(help="all figures as JSON; a page goes beside it")] = None,
) -> None:
    """Breaks something on purpose under load: what was promised, what was seen, and what it cost in quality.

    Starts a stack of its own, with a small world and a trained champion, which takes half a minute. Exits with 1 if a
    promise was broken.
    """
    from whiteboard.drills.outcome import Plan
    from whiteboard.drills.page import write
    from whiteboard.drills.stage import empty
    from whiteboard.settings import Settings

    console = Console()
    if system not in SYSTEMS:
        raise typer.BadParameter(f"--system: {system!r} has no drills; there is: {', '.join(SYSTEMS)}")
    if fault == "list":
        console.print(_listed(_names("all", system)))
        return
    chosen = _names(fault, system)
    settings = Settings()
    settings = settings.model_copy(update={"home": home or settings.home / "drills" / system})
    empty(settings)
    with console.status("starting") as status:

        def say(step: str) -> None:
            status.update(step)

        began = time.monotonic()
        stage = stage_of(system, settings, say).__enter__()
    try:
        console.print(f"the stage stands after {time.monotonic() - began:.0f} s: {settings.home}", highlight=False)
        outcomes = [_run(console, stage, one, Plan(rate=rate, seconds=seconds)) for one in chosen]
    finally:
        stage.__exit__()
    console.print(_summary(chosen, outcomes))
    path = out or settings.home / "results.json"
    command = f"whiteboard drill {fault} --system {system} --rate {rate:g} --seconds {seconds:g}"
    page = write(path, list(zip(chosen, outcomes, strict=True)), command)
    console.print(f"numbers: {path}\npage: {page}", soft_wrap=True, highlight=False)
    raise typer.Exit(0 if all(outcome.kept for outcome in outcomes) else 1)


def _run(console: Console, stage: "Stage", one: "Drill", plan: "Plan") -> "Outcome":
    with console.status(f"{one.name}: {one.fault} …"):
        began = time.monotonic()
        outcome = one.run(stage, plan)
        outcome.seconds = round(time.monotonic() - began, 1)
    console.print(_shown(one, outcome))
    return outcome


def _listed(drills: "Sequence[Drill]") -> Table:
    table = Table("drill", "fault", "promise")
    for one in drills:
        table.add_row(one.name, one.fault, one.promise)
    return table


def _mark(kept: bool | None) -> str:
    return {True: "[green]✓[/]", False: "[bold red]✗[/]", None: "[dim]·[/]"}[kept]


def _shown(one: "Drill", outcome: "Outcome") -> Table:
    title = f"{one.name}: {one.fault}\npromised: {one.promise}"
    table = Table(show_header=False, title=title, title_justify="left", title_style="bold")
    for check in outcome.checks:
        table.add_row(_mark(check.kept), check.what, check.seen)
    if outcome.quality is not None:
        table.add_row(_mark(None), "quality", str(outcome.quality))
    verdict = "[green]kept[/]" if outcome.kept else "[bold red]broken[/]"
    table.add_row(_mark(outcome.kept), "promise", f"{verdict}, {outcome.seconds:.0f} s")
    return table


def _summary(drills: "Sequence[Drill]", outcomes: "Sequence[Outcome]") -> Table:
    table = Table("drill", "promise", "checks", "cost in quality", "seconds")
    for one, outcome in zip(drills, outcomes, strict=True):
        looked = [check for check in outcome.checks if check.kept is not None]
        kept = f"{sum(bool(check.kept) for check in looked)} of {len(looked)}"
        cost = outcome.quality.cost if outcome.quality else None
        cells = "–" if cost is None or outcome.quality is None else f"{cost:+.3f} {outcome.quality.metric}"
        verdict = "[green]kept[/]" if outcome.kept else "[bold red]broken[/]"
        table.add_row(one.name, verdict, kept, cells, f"{outcome.seconds:.0f}")
    return table
