"""The `whiteboard` command: the composition root, and the only place in the library that starts pipelines.

    whiteboard demo
    whiteboard fraud backtest --simulate handbook --weeks 5 --out result.json

Every command imports what it needs when it runs, so that `--help` answers at once.
"""

import contextlib
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from whiteboard.drill_cli import drill
from whiteboard.errors import WhiteboardError
from whiteboard.experiment_cli import app as experiment_app
from whiteboard.fraud.cli import app as fraud_app
from whiteboard.keys_cli import app as keys_app
from whiteboard.load_cli import EXAMPLES as LOAD_EXAMPLES
from whiteboard.load_cli import load
from whiteboard.privacy_cli import app as privacy_app
from whiteboard.recommendation.cli import app as recommendation_app
from whiteboard.settings import PORTS
from whiteboard.spool_cli import spool

if TYPE_CHECKING:
    from whiteboard.demo import Told
    from whiteboard.settings import Settings

SYSTEMS = ("fraud", "recommendation")
app = typer.Typer(
    help="The ML system-design interview as running code.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(fraud_app, name="fraud")
app.add_typer(recommendation_app, name="recommendation")
app.add_typer(experiment_app, name="experiment")
app.add_typer(keys_app, name="keys")
app.add_typer(privacy_app, name="privacy")
app.command(epilog="Example: whiteboard spool --json")(spool)
app.command(epilog="Example: whiteboard drill broker-down --rate 100 --seconds 10   (or: list, all)")(drill)
app.command(epilog=LOAD_EXAMPLES)(load)
dead_letters = typer.Typer(
    help="Records that could not be decoded: look at them, send them again.", no_args_is_help=True
)
app.add_typer(dead_letters, name="dead-letters")

Home = Annotated[Path | None, typer.Option(help="where all state lives [default: .whiteboard]")]
System = Annotated[str, typer.Option(help="which system")]


@app.callback()
def options(
    home: Annotated[
        Path | None, typer.Option(envvar="WHITEBOARD_HOME", help="where all state lives [default: .whiteboard]")
    ] = None,
) -> None:
    """Options of every command."""
    if home is not None:
        os.environ["WHITEBOARD_HOME"] = str(home)


@app.command(epilog="Example: whiteboard demo --home /tmp/whiteboard --seed 7")
def demo(
    system: Annotated[str, typer.Option(help="fraud, recommendation, or all")] = "all",
    home: Home = None,
    seed: Annotated[int, typer.Option(help="another seed is another world")] = 7,
    customers: Annotated[int, typer.Option(min=50, help="size of the simulated worlds")] = 400,
    live_days: Annotated[int, typer.Option(min=9, help="days over HTTP; the world changes on the eighth")] = 18,
) -> None:
    """Lives through a system's whole life in minutes: history, training, live traffic, drift, retraining, promotion.

    Ends with a table, HOME/report/index.html and HOME/report/results.json; exits with 1 if an event was lost, a
    feature differed between online and offline, or a request failed.
    """
    from whiteboard.demo import run
    from whiteboard.settings import Settings

    options(home)
    if system not in ("all", *SYSTEMS):
        raise typer.BadParameter(f"{system!r} is not a system; there is: {', '.join(SYSTEMS)}, all")

    def fraud(settings: "Settings", console: Console) -> "Told":
        from pipelines.fraud.demo import Demo, DemoConfig

        return Demo(settings, console, DemoConfig(seed=seed, customers=customers, live_days=live_days)).run()

    def recommendation(settings: "Settings", console: Console) -> "Told":
        from pipelines.recommendation.demo import Demo, DemoConfig

        return Demo(settings, console, DemoConfig(seed=seed, users=2 * customers, live_days=live_days)).run()

    told = (("fraud", fraud), ("recommendation", recommendation))
    stories = {name: tell for name, tell in told if system in ("all", name)}
    command = f"whiteboard demo --system {system} --seed {seed} --customers {customers} --live-days {live_days}"
    raise typer.Exit(run(Settings(), stories, command))


@app.command(epilog="Example: whiteboard up --home /tmp/one   (elsewhere: whiteboard status --home /tmp/one)")
def up(
    system: System = "fraud",
    home: Home = None,
    traffic: Annotated[
        bool, typer.Option("--traffic/--no-traffic", help="a simulated world that lives on; or bring your own data")
    ] = True,
    speed: Annotated[float, typer.Option(min=1, help="simulated seconds a second; 288: a day in five minutes")] = 288.0,
    customers: Annotated[int, typer.Option(min=50, help="size of the simulated world; users are twice as many")] = 400,
    workers: Annotated[int, typer.Option(min=1, help="stream workers")] = 1,
    replicas: Annotated[int, typer.Option(min=1, help="processes of the service behind its port, a core each")] = 1,
    port: Annotated[int | None, typer.Option(help="of the service [default: fraud 8001, recommendation 8002]")] = None,
) -> None:
    """Starts broker, stream workers, service and monitor of a system, and keeps them running until Ctrl-C.

    With traffic a history and a first model are made on the first start, and requests flow from then on. Without:
    `whiteboard SYSTEM ingest`, `SYSTEM train`, `SYSTEM promote`; the service follows by itself.
    """
    from whiteboard.embedded import EmbeddedStack
    from whiteboard.eventlog import create_topics
    from whiteboard.featurestore import FeatureStore
    from whiteboard.fraud.routes import ROUTES as FRAUD
    from whiteboard.processes import free_port, url_answers
    from whiteboard.recommendation.routes import ROUTES as RECOMMENDATION
    from whiteboard.registry import Registry
    from whiteboard.settings import Settings

    options(home)
    console, of = Console(), ("--system", _known(system))
    with EmbeddedStack(Settings()) as stack:
        url = f"http://127.0.0.1:{port or PORTS[system]}"
        with console.status("starting"):
            settings = stack.start_broker()
            create_topics(settings)
            routes = {"fraud": FRAUD, "recommendation": RECOMMENDATION}[system]
            FeatureStore.apply(settings).rows(*(route.view for route in routes.folded))  # or an error that says why
            Registry(settings).prepare()
            for number in range(1, workers + 1):
                metrics = free_port()
                ready = url_answers(f"http://127.0.0.1:{metrics}/metrics")
                worker = (*of, "--metrics-port", str(metrics))
                stack.start(f"stream-{number}", "services.stream.worker", *worker, ready=ready)
            live = url_answers(f"{url}/health/live")
            listening = ("--port", str(port or PORTS[system]), "--workers", str(replicas))
            stack.start(system, f"services.{system}.app", *listening, ready=live)
            stack.start("monitor", "services.monitor.worker", *of, "--metrics-port", str(free_port()))
        if traffic:
            _bootstrap(console, settings, system, customers, None, 7)
            arguments = (*of, "--url", url, "--speed", str(speed), "--metrics-port", str(free_port()))
            stack.start("traffic", "services.traffic.worker", *arguments)
        console.print(
            f"{system} service {url}/docs, Kafka {settings.kafka_bootstrap}, home {settings.home}", soft_wrap=True
        )
        console.print("Ctrl-C stops everything. The embedded broker forgets its events, the lake keeps them.")
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                stack.check()
                time.sleep(1)  # nothing to wait for: just the next look


def _bootstrap(
    console: Console, settings: "Settings", system: str, customers: int, history_days: int | None, seed: int
) -> None:
    from rich.progress import Progress

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("history", visible=False)

        def say(step: str) -> None:
            console.print(step, highlight=False)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=done < total)

        if system == "fraud":
            from pipelines.fraud.bootstrap import bootstrap as found_fraud
            from whiteboard.fraud.live import LiveConfig as FraudConfig

            fraud = FraudConfig.sized(customers, history_days or 50, seed)
            version = found_fraud(settings, fraud, say=say, progress=progress)
        else:
            from pipelines.recommendation.bootstrap import bootstrap as found_recommendation
            from whiteboard.recommendation.live import LiveConfig

            feed = LiveConfig.sized(2 * customers, history_days or 21, seed)
            version = found_recommendation(settings, feed, say=say, progress=progress)
    console.print(f"version {version} is @champion")


@app.command(epilog="Example: whiteboard bootstrap   (stream workers must be running, as after `whiteboard up`)")
def bootstrap(
    system: System = "fraud",
    customers: Annotated[int, typer.Option(min=50, help="size of the simulated world; users are twice as many")] = 400,
    history_days: Annotated[
        int | None, typer.Option(min=14, help="days before the traffic begins [default: fraud 50, recommendation 21]")
    ] = None,
    seed: Annotated[int, typer.Option(help="another seed is another world")] = 7,
) -> None:
    """Prepares a stack that is to be kept: topics, feature repo, a history through Kafka, and the first champion.

    Where there is a champion already nothing is done; what was interrupted goes on.
    """
    from whiteboard.embedded import connected
    from whiteboard.settings import Settings

    _bootstrap(Console(), connected(Settings()), _known(system), customers, history_days, seed)


def _known(system: str) -> str:
    if system not in SYSTEMS:
        raise typer.BadParameter(f"--system: {system!r} is not a system; there is: {', '.join(SYSTEMS)}")
    return system


@app.command(epilog="Example: whiteboard smoke --url http://127.0.0.1:8001")
def smoke(
    url: Annotated[str, typer.Option(help="of the fraud service, or of what stands in front of it")],
    prometheus: Annotated[str | None, typer.Option(help="its URL [default: not asked]")] = None,
    payments: Annotated[int, typer.Option(min=1)] = 20,
    lists: Annotated[bool, typer.Option("--lists", help="ask the recommendation service too, at the same URL")] = False,
) -> None:
    """Sends payments through every component of a running stack and prints where each was seen; exit code 1 if not."""
    from whiteboard.embedded import connected
    from whiteboard.settings import Settings
    from whiteboard.smoke import Smoke

    console, failed = Console(), False
    for component, ok, text in Smoke(connected(Settings()), url.rstrip("/"), prometheus, payments, lists).walk():
        mark = "[green]✓[/]" if ok else "[bold red]✗[/]"
        console.print(f"{mark} {component:12}{text}", highlight=False, soft_wrap=True)
        failed |= not ok
    raise typer.Exit(1 if failed else 0)


@app.command(epilog="Example: WHITEBOARD_ENV=production whiteboard preflight")
def preflight() -> None:
    """Refuses well-known passwords and a lack of API keys when WHITEBOARD_ENV=production; exit code 1 then."""
    from whiteboard.preflight import check
    from whiteboard.settings import Settings

    if weak := check(Settings(), os.environ):
        Console().print(f"good enough for development only: {', '.join(weak)}")


@app.command()
def status(home: Home = None) -> None:
    """Shows what runs in this home."""
    from rich.table import Table

    from whiteboard.embedded import running
    from whiteboard.settings import Settings

    options(home)
    stack = running(Settings())
    if stack is None:
        Console().print("nothing runs in this home; start it with `whiteboard up`")
        raise typer.Exit(1)
    table = Table("process", "pid", title=f"Kafka {stack['bootstrap']}", title_justify="left")
    for name, pid in stack["pids"].items():
        table.add_row(name, str(pid))
    Console().print(table)


@app.command()
def down(home: Home = None) -> None:
    """Stops what runs in this home."""
    from whiteboard.embedded import stop_running
    from whiteboard.settings import Settings

    options(home)
    Console().print("stopped" if stop_running(Settings()) else "nothing ran in this home")


@app.command()
def apply() -> None:
    """Applies the Feast repo to this home and creates the topics, as the demo and `up` do by themselves."""
    from whiteboard.embedded import connected
    from whiteboard.eventlog import create_topics
    from whiteboard.featurestore import FeatureStore
    from whiteboard.settings import Settings

    settings = Settings()
    FeatureStore.apply(settings)
    create_topics(connected(settings))
    Console().print(f"Feature repo applied and topics created for {settings.home}")


@dead_letters.command("list", epilog="Example: whiteboard dead-letters list --limit 5")
def list_dead(system: System = "fraud", limit: Annotated[int, typer.Option(min=1)] = 20) -> None:
    """Shows the dead letters: why they were refused and where they came from."""
    from rich.table import Table

    from whiteboard.deadletters import list_dead_letters
    from whiteboard.embedded import connected
    from whiteboard.settings import Settings

    letters = list_dead_letters(connected(Settings()), system, limit)
    table = Table("topic", "partition", "offset", "reason", "value", title=f"{len(letters)} dead letters of {system}")
    for letter in letters:
        value = letter.value[:60].decode(errors="replace")
        table.add_row(letter.topic, str(letter.partition), str(letter.offset), letter.reason, value)
    Console().print(table)


@dead_letters.command("replay", epilog="Example: whiteboard dead-letters replay --system fraud")
def replay(system: System = "fraud") -> None:
    """Sends every dead letter not yet replayed to its topic again, after a fix; each once."""
    from whiteboard.deadletters import replay_dead_letters
    from whiteboard.embedded import connected
    from whiteboard.settings import Settings

    Console().print(f"{replay_dead_letters(connected(Settings()), system)} dead letters sent again")


def main() -> None:
    """Runs the command; an error of ours is one line on standard error and exit code 1."""
    logging.captureWarnings(True)  # of libraries to libraries; their imports undo any filter
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    try:
        app()
    except WhiteboardError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {error}", highlight=False)
        sys.exit(1)
