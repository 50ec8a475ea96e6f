"""`whiteboard load SYSTEM`: how much a running service can take, and how long it then takes to answer.

whiteboard load fraud --rate 500 --duration 30 --p99-ms 10
whiteboard load recommendation --sweep --p99-ms 50
"""

import re
import shlex
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from whiteboard.errors import LoadError
from whiteboard.settings import PORTS

if TYPE_CHECKING:
    from whiteboard.load import Budget, LoadResult, Plan, Step, Sweep
    from whiteboard.load import Progress as Told
    from whiteboard.load.plan import Traffic
    from whiteboard.settings import Settings

SWEEP_P99_MS, SWEEP_ERRORS = 100.0, 0.001  # what a sweep's steps have to keep if nothing else is asked
RUN_S, STEP_S = 20.0, 5.0


class Arrivals(StrEnum):
    """How the gaps between requests are distributed."""

    POISSON = "poisson"
    CONSTANT = "constant"


EXAMPLES = (
    "Examples:  whiteboard load fraud --rate 500 --duration 30 --p99-ms 10   |   "
    "whiteboard load recommendation --sweep --p99-ms 50   |   "
    "whiteboard load fraud --url http://127.0.0.1:8080 --api-key KEY"
)


def load(
    system: Annotated[str, typer.Argument(help="fraud or recommendation")],
    rate: Annotated[float, typer.Option(min=0.1, help="requests a second; where a sweep begins")] = 100.0,
    duration: Annotated[
        float | None,
        typer.Option(min=0.5, help="seconds that are measured, default 20; in a sweep of each step, default 5"),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="that send; one does thousands of requests a second")] = 1,
    sweep: Annotated[bool, typer.Option("--sweep", help="raise the rate until a budget breaks")] = False,
    p99_ms: Annotated[
        float | None, typer.Option(min=0.001, help="budget of p99: exit code 1 above it; in a sweep 100 by default")
    ] = None,
    max_errors: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="budget: share that may fail; in a sweep 0.001 by default"),
    ] = None,
    url: Annotated[str | None, typer.Option(help="of the service; default: that of `whiteboard up`")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="WHITEBOARD_API_KEY", help="sent as x-api-key", show_default=False)
    ] = None,
    arrivals: Annotated[Arrivals, typer.Option(help="as of many users, or evenly spaced")] = Arrivals.POISSON,
    skew: Annotated[float, typer.Option(min=0, help="Zipf exponent of terminals or users; 0: as in the world")] = 0.99,
    warm_up: Annotated[float, typer.Option(min=0, help="seconds before, which are in no figure")] = 2.0,
    connections: Annotated[int, typer.Option(min=1, help="at most; requests that find none free wait")] = 64,
    timeout: Annotated[float, typer.Option(min=0.01, help="seconds after which a request counts as failed")] = 10.0,
    seed: Annotated[int, typer.Option(help="another seed is another order of keys and other gaps")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder for the results; default: HOME/load")] = None,
) -> None:
    """Sends requests to a running service when they are due, whatever became of earlier ones (an open loop).

    Payments or users are those of the home's simulated world. Prints latency percentiles counted from when each request
    was due, throughput, errors and the share of degraded answers; writes them as JSON and as a page with the latency
    distribution and, after a sweep, the throughput-latency curve. Ctrl-C ends it early and reports what there is.
    """
    from whiteboard.load import Budget, Plan
    from whiteboard.settings import Settings

    if system not in PORTS:
        raise typer.BadParameter(f"SYSTEM: {system!r} is not a system; there is: {', '.join(PORTS)}")
    settings, console = Settings(), Console()
    url = url or _url(system, settings)
    _require_answer(url)
    with console.status("preparing the requests"):
        traffic, facts = _traffic(system, settings, skew, seed)
    plan = Plan(
        url,
        traffic,
        rate,
        duration if duration is not None else STEP_S if sweep else RUN_S,
        warm_up,
        arrivals.value,
        connections,
        processes,
        timeout,
        seed=seed,
        headers={"x-api-key": api_key} if api_key else {},
    )
    if sweep:
        p99_ms, max_errors = p99_ms or SWEEP_P99_MS, SWEEP_ERRORS if max_errors is None else max_errors
    test = _Test(console, plan, Budget(p99_ms, max_errors), system, out or settings.home / "load", facts)
    raise typer.Exit(test.sweep() if sweep else test.run())


@dataclass(frozen=True)
class _Test:
    """One call of the command: what is run, and where its results go."""

    console: Console
    plan: "Plan"
    budget: "Budget"
    system: str
    folder: Path
    facts: dict[str, str]

    def run(self) -> int:
        """One rate; the exit code."""
        from whiteboard.load import run

        with _bar(self.console) as bar:
            result = run(self.plan, _telling(bar, f"{self.plan.rate:g}/s", self.plan))
        self._report(result, None)
        return self._verdict(self.budget.broken(result.summary()))

    def sweep(self) -> int:
        """One rate after the other until the knee is found; the exit code."""
        from whiteboard.load import sweep

        with _bar(self.console) as bar:
            tell: dict[float, Callable[[Told], None]] = {}

            def on_progress(rate: float, told: "Told") -> None:
                if rate not in tell:
                    tell[rate] = _telling(bar, f"{rate:g}/s", self.plan)
                tell[rate](told)

            def on_step(step: "Step") -> None:
                tell.clear()
                for task in bar.task_ids:
                    bar.remove_task(task)
                mark = "[green]✓[/]" if step.held else "[bold red]✗[/]"
                cuts = f"p50 {step.summary.p50_ms:.1f} ms, p99 {step.summary.p99_ms:.1f} ms"
                bar.console.print(f"{mark} {step.rate:8,.1f}/s  {cuts}  {step.broken}", highlight=False)

            found = sweep(self.plan, self.budget, self.plan.duration_s, on_step, on_progress)
        if not found.steps:
            self.console.print("interrupted before the first step ended; there is nothing to report")
            return 1
        self._report(found.best.result, found)
        if found.knee is not None:
            self.console.print(f"[bold]the highest rate that held: {found.knee:,.0f} requests a second[/]")
            return 0
        return self._verdict(f"no rate held; {found.steps[-1].rate:g}/s: {found.steps[-1].broken}")

    def _report(self, result: "LoadResult", found: "Sweep | None") -> None:
        from whiteboard.load.report import write

        self.console.print(summary_table(result))
        self.console.print(circumstances(result), highlight=False)
        if result.interrupted or (found and found.interrupted):
            self.console.print("interrupted: these are the results so far")
        name = f"{self.system}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
        paths = write(result, found, self.folder, name=name, command=_command(), budget=self.budget, facts=self.facts)
        self.console.print(f"page:    {paths.page}\nnumbers: {paths.json}", soft_wrap=True, highlight=False)

    def _verdict(self, broken: str) -> int:
        if broken:
            self.console.print(f"[bold red]✗[/] {broken}", highlight=False)
        return 1 if broken else 0


def summary_table(result: "LoadResult") -> Table:
    """The figures of each kind of request."""
    from whiteboard.load.report import milliseconds

    kinds = {kind: result.summary(kind) for kind in result.kinds}
    offered = "closed loop" if result.plan.rate is None else f"{result.plan.rate:,.0f} requests a second"
    table = Table("", *kinds, title=f"{offered} for {result.measured_s:.0f} s", title_justify="left")
    rows = {
        "requests": [f"{s.requests:,}" for s in kinds.values()],
        "answered a second": [f"{s.throughput:,.1f}" for s in kinds.values()],
        **{
            name: [milliseconds(getattr(s, key)) for s in kinds.values()]
            for name, key in (("p50", "p50_ms"), ("p90", "p90_ms"), ("p99", "p99_ms"), ("p99.9", "p99_9_ms"))
        },
        "longest": [milliseconds(s.max_ms) for s in kinds.values()],
        "errors": [
            f"{s.failed:,}" + "".join(f"\n  {count:,} {label}" for label, count in s.errors.items())
            for s in kinds.values()
        ],
        "degraded": [f"{s.degraded_share:.1%}" for s in kinds.values()],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def circumstances(result: "LoadResult") -> str:
    """What the generator and the machine had to do with the figures."""
    from whiteboard.load.report import machine

    cpu_us = 1e6 * result.cpu_s / max(len(result.records), 1)
    generator = f"the generator used {cpu_us:.0f} µs of CPU a request; p99 of its own delay {result.lag_ms:.2f} ms"
    return f"{generator}\n{machine(result)}"


def _traffic(system: str, settings: "Settings", skew: float, seed: int) -> "tuple[Traffic, dict[str, str]]":
    """Who sends what, and what is to be said about it."""
    if system == "fraud":
        from whiteboard.fraud.load import FraudPayments

        payments = FraudPayments.of(settings, skew=skew, seed=seed)
        at = f"{payments.clock.start:%Y-%m-%d %H:%M} UTC"
        share = f"the busiest terminal has {payments.hottest:.1%} of the payments (Zipf exponent {skew:g})"
        return payments, {"payments": f"of the home's simulated world, dated from {at} on", "keys": share}
    from whiteboard.recommendation.load import RecommendationUsers

    users = RecommendationUsers.of(settings, skew=skew, seed=seed)
    at = f"{users.clock.start:%Y-%m-%d %H:%M} UTC"
    share = f"the most active user has {users.hottest:.1%} of the requests (Zipf exponent {skew:g})"
    return users, {"users": f"of the home's simulated world, from {at} on; views and clicks follow", "keys": share}


def _url(system: str, settings: "Settings") -> str:
    """Of the service that runs in this home, else at its usual port."""
    from whiteboard.embedded import running

    stack = running(settings) or {"commands": {}}
    command = stack["commands"].get(system, [])
    port = command[command.index("--port") + 1] if "--port" in command else PORTS[system]
    return f"http://127.0.0.1:{port}"


def _require_answer(url: str) -> None:
    """Raises LoadError if nobody listens there."""
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname or "", address.port or 80), timeout=5).close()
    except OSError as error:
        raise LoadError(f"nobody listens at {url} ({error}); start the service with `whiteboard up`") from None


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[says]}"), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def _telling(bar: Progress, description: str, plan: "Plan") -> "Callable[[Told], None]":
    task = bar.add_task(description, total=plan.total_s, says="")

    def tell(told: "Told") -> None:
        says = f"{told.done:,} answered, {told.failed:,} failed"
        bar.update(task, completed=told.elapsed_s, says=says)

    return tell


def _command() -> str:
    """This command as it can be typed again, without secrets."""
    words = ["whiteboard", *sys.argv[1:]]
    for i, word in enumerate(words[:-1]):
        if word == "--api-key":
            words[i + 1] = "…"
    return shlex.join(re.sub(r"^--api-key=.*", "--api-key=…", word) for word in words)
