"""`whiteboard experiment …`: start an experiment, read what came of it, stop it.

whiteboard experiment run ranker --system recommendation --arm popularity=0.5 --arm ranker=0.5 --days 14
whiteboard experiment report ranker              the table, HOME/experiments/ranker/report.md and effect.png
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from whiteboard.experiment import Experiment, Metric
    from whiteboard.settings import Settings

app = typer.Typer(help="A/B tests: who sees what, and what came of it.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="of the experiment")]
Moment = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="[default: now]")]


def _metrics() -> dict[str, "Metric"]:
    from whiteboard.experiment import Metric

    before = "clicks_before"
    return {
        "clicks_per_request": Metric(
            name="clicks_per_request", numerator="clicks", denominator="requests", covariate=before
        ),
        "purchases_per_request": Metric(name="purchases_per_request", numerator="purchases", denominator="requests"),
        "clicks": Metric(name="clicks", numerator="clicks", covariate=before),
        "requests": Metric(name="requests", numerator="requests"),
    }


def _outcomes(system: str) -> "Callable[[Settings, Experiment, datetime], pd.DataFrame]":
    if system != "recommendation":
        raise typer.BadParameter(f"--system: {system!r} has no experiments; there is: recommendation")
    from whiteboard.recommendation.outcomes import outcomes

    return outcomes


@app.command(epilog="Example: whiteboard experiment run ranker --arm popularity=0.5 --arm ranker=0.5 --units 500")
def run(
    name: Name,
    arm: Annotated[
        list[str],
        typer.Option(help="an arm and its share; the first is the control (popularity, ranker, newest, challenger)"),
    ],
    system: Annotated[str, typer.Option(help="which system")] = "recommendation",
    metric: Annotated[str, typer.Option(help="what is to rise")] = "clicks_per_request",
    guardrail: Annotated[list[str] | None, typer.Option(help="what must not fall, with a margin: requests=0.1")] = None,
    layer: Annotated[str, typer.Option(help="experiments of one layer share the units out among them")] = "ranking",
    traffic_from: Annotated[float, typer.Option(min=0, max=1, help="first share of the layer's units")] = 0.0,
    traffic_to: Annotated[float, typer.Option(min=0, max=1, help="last share of the layer's units")] = 1.0,
    units: Annotated[int, typer.Option(min=2, help="of each arm, until the fixed-horizon test is read")] = 1_000,
    minimum_effect: Annotated[float, typer.Option(min=0.001, help="the smallest change worth finding")] = 0.05,
    window_days: Annotated[float, typer.Option(min=0.01, help="for which a unit is observed")] = 7.0,
    start: Moment = None,
) -> None:
    """Starts an experiment; services follow within a second. It is declared in HOME/experiments/NAME.json."""
    from whiteboard.experiment import Experiment, Guardrail, declare
    from whiteboard.settings import Settings

    _outcomes(system)
    known = _metrics()
    shares = {key: _number(value, "--arm") for key, value in (_pair(text, "--arm") for text in arm)}
    rails = [_pair(text, "--guardrail") for text in guardrail or []]
    for wanted in (metric, *(key for key, _ in rails)):
        if wanted not in known:
            raise typer.BadParameter(f"{wanted!r} is no metric; there are: {', '.join(known)}")
    path = declare(
        Settings(),
        Experiment(
            name=name,
            system=system,
            arms=shares,
            metric=known[metric],
            guardrails=tuple(Guardrail(metric=known[k], margin=_number(v, "--guardrail")) for k, v in rails),
            layer=layer,
            traffic_from=traffic_from,
            traffic_to=traffic_to,
            started_at=_moment(start),
            window_days=window_days,
            units=units,
            minimum_effect=minimum_effect,
        ),
    )
    Console().print(f"experiment {name} is declared in {path}; `whiteboard experiment report {name}` reads it")


@app.command(epilog="Example: whiteboard experiment report ranker --stop")
def report(
    name: Name,
    until: Moment = None,
    stop: Annotated[bool, typer.Option("--stop", help="end it, whatever came of it")] = False,
) -> None:
    """Judges an experiment on what is known: the table, the verdict, a plot of the effect over time."""
    from whiteboard.experiment import load
    from whiteboard.experiment import stop as end
    from whiteboard.experiment_report import judge, write
    from whiteboard.settings import Settings

    settings, at = Settings(), _moment(until)
    experiment = load(settings.home / "experiments" / f"{name}.json")
    decision = judge(experiment, _outcomes(experiment.system)(settings, experiment, at))
    path = write(decision, settings.home / "experiments" / name)
    Console().print(decision.as_table())
    Console().print(f"written to {path}")
    if stop:
        end(settings, name, at)
        Console().print(f"experiment {name} is stopped")


@app.command("list", epilog="Example: whiteboard experiment list")
def list_() -> None:
    """Every experiment of this home: its arms, since when, whether it runs."""
    from whiteboard.experiment import load
    from whiteboard.settings import Settings

    table = Table("name", "system", "layer", "arms", "started", "state")
    now = datetime.now(UTC)
    for path in sorted((Settings().home / "experiments").glob("*.json")):
        found = load(path)
        arms = ", ".join(f"{arm} {share:.0%}" for arm, share in found.arms.items())
        state = "runs" if found.running(now) else "stopped" if found.stopped_at else "to come"
        table.add_row(found.name, found.system, found.layer, arms, f"{found.started_at:%Y-%m-%d %H:%M}", state)
    Console().print(table)


def _pair(text: str, option: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found:
        raise typer.BadParameter(f"{option}: found {text!r}, expected name=number")
    return name, value


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{option}: {text!r} is no number") from None


def _moment(given: datetime | None) -> datetime:
    return datetime.now(UTC) if given is None else given.replace(tzinfo=UTC)
