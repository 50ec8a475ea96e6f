"""The fraud service beside what people usually build, in one run on one machine.

    make bench                          all sides, some four minutes
    make bench ARGS="--rounds 6 --out bench.json"

(a) Feast's Python feature server, then MLflow's model server, as a client calls one after the other: their documented
default. (b) The tutorial: FastAPI, `get_online_features`, a DataFrame, `predict_proba`. (c) BentoML with the Feast SDK.
And, as a floor, FastAPI with the same request and answer and nothing in between. Same model, same features, same kind
of online store (SQLite), same payments; one process each, 8 connections, one thread for LightGBM. Before anything is
timed all sides must give the same probabilities.

Ours has a turn with 32 connections too: a p99 like theirs leaves room for more than 8.

Sides take turns, round after round, so that whatever else the machine does hits all of them; intervals are 95 %,
bootstrapped over rounds. The CPU time of a decision, of all processes of a side, says the same without the wall clock.
Ours runs with everything on: payment and decision go to Kafka, a challenger is scored in shadow, declines and reviews
are explained.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.peers.clients import FeastThenMLflow, Payments, probability
from bench.peers.prepare import Prepared, prepare
from whiteboard.embedded import EmbeddedStack
from whiteboard.eventlog import create_topics
from whiteboard.load import Budget, Plan, Traffic, run, sweep
from whiteboard.processes import Process, free_port, url_answers
from whiteboard.settings import Settings

HERE = Path(__file__).parent
BENTO = HERE / ".venv" / "bin"
CONNECTIONS = 8
MORE_CONNECTIONS = 32  # with so many ours has a p99 that is still below those of the others with 8
PEERS = slice(2, 5)  # in the list of sides: (a), (b), (c), after ours twice, before the bare endpoint
WARM_UP_S = 1.0
SAME = 1e-6  # largest difference of two sides' probabilities: ours come from a table of the logistic function
COMPARED = 100  # payments
BENTO_IS_QUIET = {
    "BENTOML_DO_NOT_TRACK": "true",
    "BENTOML_CONFIG_OPTIONS": "api_server.logging.access.enabled=False",
}
FEAST_RUNS_ON = "1000000000"  # requests until its worker restarts; by default 1,000, which would stop it for seconds

Figures = dict[str, float]  # of one side in one round: throughput, p50_ms, p99_ms, cpu_ms a decision, failed


@dataclass(frozen=True)
class Side:
    """A contestant: its name, how to reach it, what it is sent, what it consists of, and its processes."""

    name: str
    url: str
    traffic: Traffic
    made_of: str
    processes: tuple[Process, ...]
    connections: int = CONNECTIONS

    def cpu_s(self) -> float:
        """CPU time used so far, children included."""
        return sum(tree_cpu_s(process.pid) for process in self.processes)


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and of all that it started, directly or not, and that still run."""
    parents, used = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            fields = path.read_text().rpartition(") ")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
            used[int(path.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(used.get(member, 0.0) for member in family)


def start(stack: EmbeddedStack, made: Prepared, console: Console) -> list[Side]:
    """All servers, side by side; returns when each of them answers."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # MLflow looks for `uvicorn`
    environment = {"PEERS_HOME": str(made.folder), "OMP_NUM_THREADS": "1", "PATH": path} | BENTO_IS_QUIET
    started: dict[str, tuple[Process, str]] = {}
    health: dict[str, str] = {}

    def serve(name: str, ready: str, module: str, *arguments: str) -> None:
        port = free_port()
        started[name] = (
            stack.start(name, module, *arguments, "--port", str(port), env=environment),
            f"http://127.0.0.1:{port}",
        )
        health[name] = f"http://127.0.0.1:{port}{ready}"

    feast_arguments = ("serve", "--no-access-log", "--max-requests", FEAST_RUNS_ON)
    model = str(made.folder / "mlflow-model")
    bento_arguments = ("serve", "bento:Fraud", "--working-dir", str(HERE), "--host", "127.0.0.1")
    serve("fraud", "/health/ready", "services.fraud.app")
    serve("feast", "/health", "feast.cli.cli", "-c", str(made.folder / "repo"), *feast_arguments)
    serve("mlflow", "/ping", "mlflow", "models", "serve", "-m", model, "--env-manager", "local")
    serve("tutorial", "/openapi.json", "uvicorn", "bench.peers.tutorial:app", "--no-access-log")
    serve("bentoml", "/readyz", "bench.peers.launch", str(BENTO / "python"), "-m", "bentoml", *bento_arguments)
    serve("bare", "/openapi.json", "uvicorn", "bench.peers.bare:app", "--no-access-log")
    for name, (process, _) in started.items():
        with console.status(f"starting {name}"):
            process.wait_ready(url_answers(health[name]))
    return _sides(made, started)


def _sides(made: Prepared, started: dict[str, tuple[Process, str]]) -> list[Side]:
    payments = Payments(made.payments)
    two_calls = FeastThenMLflow(made.payments, made.features, made.at.timestamp(), started["mlflow"][1])

    def side(name: str, traffic: Traffic, made_of: str, *servers: str, connections: int = CONNECTIONS) -> Side:
        processes = tuple(started[server][0] for server in servers)
        return Side(name, started[servers[0]][1], traffic, made_of, processes, connections)

    version = importlib.metadata.version
    uvicorn = f"fastapi {version('fastapi')}, uvicorn {version('uvicorn')}, 1 process"
    feast = f"feast {version('feast')}, mlflow {version('mlflow')}; 1 worker each"
    ours = "1 process; on: events to Kafka, shadow model, reasons"
    return [
        side("whiteboard", payments, ours, "fraud"),
        side(f"whiteboard, {MORE_CONNECTIONS} connections", payments, ours, "fraud", connections=MORE_CONNECTIONS),
        side("(a) feast serve, then mlflow models serve", two_calls, feast, "feast", "mlflow"),
        side("(b) FastAPI, get_online_features, predict_proba", payments, uvicorn, "tutorial"),
        side("(c) BentoML with the Feast SDK", payments, f"bentoml {_bento()}, 1 worker", "bentoml"),
        side("bare FastAPI endpoint", payments, "the same bodies, no features, no model", "bare"),
    ]


def probabilities(side: Side) -> dict[int, float]:
    """What a side says about the first payments, by number."""
    plan = Plan(side.url, side.traffic, 20, COMPARED / 20, 0, "constant", 1, keep_bodies=True, timeout_s=60)
    records = list(run(plan).records)
    sound = [record for record in records if record.outcome == "ok" and not record.degraded]  # the machine may be busy
    said = {int(record.key): probability(record.kind, record.body) for record in sound}
    known = {number: value for number, value in said.items() if value is not None}
    if len(known) < 0.9 * COMPARED:
        failed = next((record for record in records if record.outcome != "ok"), None)
        raise SystemExit(f"{side.name}: {len(known)} of {COMPARED} payments got a sound answer; {failed}")
    return known


def compare(sides: list[Side]) -> float:
    """The largest difference of any side's probability from ours. Ends the program if sides disagree."""
    ours, largest = probabilities(sides[0]), 0.0
    for side in sides[PEERS]:
        theirs = probabilities(side)
        worst = max(ours.keys() & theirs.keys(), key=lambda number: abs(ours[number] - theirs[number]))
        largest = max(largest, abs(ours[worst] - theirs[worst]))
        if largest > SAME:
            raise SystemExit(f"payment {worst}: {side.name} says {theirs[worst]}, whiteboard says {ours[worst]}")
    return largest


def turn(side: Side, first_number: int, seconds: float) -> Figures:
    """One side's closed loop; `failed` is the share of its requests that failed, which is in no throughput."""
    plan = Plan(
        side.url, side.traffic, None, seconds, WARM_UP_S, connections=side.connections, first_number=first_number
    )
    used = side.cpu_s()
    result = run(plan)
    used, summary = side.cpu_s() - used, result.summary("decisions")
    decided = int((result.records.kinds == "decisions").sum())  # those of the warm-up took CPU too
    figures = {"throughput": summary.throughput, "p50_ms": summary.p50_ms, "p99_ms": summary.p99_ms}
    errors = max(result.summary(kind).error_share for kind in result.kinds)
    return figures | {"cpu_ms": 1000 * used / max(decided, 1), "failed": errors}


def measure(sides: list[Side], rounds: int, seconds: float, console: Console) -> dict[str, list[Figures]]:
    """The figures of each side in each round."""
    found: dict[str, list[Figures]] = {side.name: [] for side in sides}
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("", total=rounds * len(sides))
        for number in range(rounds):
            order = sides[number % len(sides) :] + sides[: number % len(sides)]
            for side in order:
                bar.update(task, description=f"round {number + 1}: {side.name}")
                # Ours has two turns a round: a payment that was decided on before would cost it nothing.
                first_number = 1_000_000 * (number * len(sides) + sides.index(side) + 1)
                found[side.name].append(turn(side, first_number, seconds))
                bar.advance(task)
    return found


def ratio(ours: list[Figures], theirs: list[Figures], key: str, draws: int = 10_000) -> tuple[float, float, float]:
    """How many times theirs ours is, in the mean over rounds, and its 95 % interval, resampling rounds as pairs."""
    pairs = np.array([(a[key], b[key]) for a, b in zip(ours, theirs, strict=True)])
    picked = pairs[np.random.default_rng(0).integers(len(pairs), size=(draws, len(pairs)))].mean(axis=1)
    low, high = np.percentile(picked[:, 0] / picked[:, 1], [2.5, 97.5])
    whole = pairs.mean(axis=0)
    return float(whole[0] / whole[1]), float(low), float(high)


def at_equal_p99(side: Side, p99_ms: float, begin: float, console: Console, first: int) -> float | None:
    """The highest rate, open loop, at which a side keeps a p99; what a queue does to it counts."""
    plan = Plan(side.url, side.traffic, begin, 3.0, WARM_UP_S, connections=64, first_number=first)
    with console.status(f"{side.name}: the highest rate with a p99 of {p99_ms:.0f} ms"):
        return sweep(plan, Budget(p99_ms, 0.0), 3.0).knee


def main(
    rounds: Annotated[int, typer.Option(min=2, help="in each, every side is measured once")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="for each measurement")] = 3.0,
    out: Annotated[Path | None, typer.Option(help="the same numbers as JSON")] = None,
) -> None:
    """Starts everything, compares the answers, measures, prints the tables."""
    console = Console(width=None if sys.stdout.isatty() else 180)  # nothing is cut where it goes into a file
    if not BENTO.exists():
        raise SystemExit(f"{BENTO} is missing: run this by `make bench`, which sets it up")
    with tempfile.TemporaryDirectory() as home, EmbeddedStack(Settings(home=Path(home) / "home")) as stack:
        settings = stack.start_broker()
        create_topics(settings)
        (folder := Path(home) / "peers").mkdir()
        with console.status("world, features, model"):
            made = prepare(settings, folder)
        sides = start(stack, made, console)
        with console.status("comparing probabilities"):
            difference = compare(sides)
        console.print(f"{COMPARED} payments: all sides give the same probabilities, up to {difference:.0e}")
        found = measure(sides, rounds, seconds, console)
        usual = min(np.median([r["p99_ms"] for r in found[side.name]]) for side in sides[PEERS])
        begin = 0.7 * float(np.mean([r["throughput"] for r in found["whiteboard"]]))
        held = at_equal_p99(sides[0], usual, begin, console, 1_000_000 * (rounds * len(sides) + 1))
    numbers = report(console, sides, found, usual, held)
    if out is not None:
        out.write_text(json.dumps(numbers, indent=2))


def report(
    console: Console, sides: list[Side], found: dict[str, list[Figures]], p99_ms: float, held: float | None
) -> dict[str, Any]:
    """Prints the tables; the same as numbers."""
    columns = (
        "side",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "CPU ms",
        "failed",
        "whiteboard: requests/s",
        "per CPU",
        "configuration",
    )
    table = Table(*columns, title=f"{CONNECTIONS} connections, closed loop", title_justify="left")
    numbers: dict[str, Any] = {"connections": CONNECTIONS, "sides": {}}
    ours = found["whiteboard"]
    for side in sides:
        rows = found[side.name]
        rate = float(np.mean([r["throughput"] for r in rows]))
        p50, p99 = (float(np.median([r[key] for r in rows])) for key in ("p50_ms", "p99_ms"))
        cpu_ms = float(np.mean([r["cpu_ms"] for r in rows]))
        failed = float(np.mean([r["failed"] for r in rows]))
        faster, leaner = ratio(ours, rows, "throughput"), ratio(rows, ours, "cpu_ms")
        said = [f"{times:.2f}× ({low:.2f}–{high:.2f})" for times, low, high in (faster, leaner)]
        said = ["", ""] if side.name == "whiteboard" else said
        table.add_row(
            side.name, f"{rate:,.0f}", f"{p50:.1f}", f"{p99:.1f}", f"{cpu_ms:.2f}", f"{failed:.1%}", *said, side.made_of
        )
        numbers["sides"][side.name] = {
            "throughput": rate,
            "p50_ms": p50,
            "p99_ms": p99,
            "cpu_ms": cpu_ms,
            "failed": failed,
            "throughput_ratio": faster,  # with its 95 % interval
            "cpu_ratio": leaner,
            "rounds": rows,
            "made_of": side.made_of,
        }
    console.print(table)
    more, feast = found[sides[1].name], found[sides[PEERS][0].name]
    times, low, high = ratio(more, feast, "throughput")
    worst = max(r["p99_ms"] for r in more)
    console.print(
        f"With {MORE_CONNECTIONS} connections, and a p99 of at most {worst:.0f} ms, whiteboard answers "
        f"{times:.1f}× ({low:.1f}–{high:.1f}) what (a) does with {CONNECTIONS}"
    )
    numbers["equal_p99"] = {"p99_ms": p99_ms, "rate": held}
    if held is not None:
        theirs = numbers["sides"][sides[PEERS][0].name]["throughput"]
        console.print(
            f"Open loop, at the best p99 of (a), (b) and (c) above, {p99_ms:.0f} ms: whiteboard holds {held:,.0f} "
            f"requests a second, {held / theirs:.0f} times what (a) answers at its own p99"
        )
    return numbers


def _bento() -> str:
    command = [str(BENTO / "python"), "-c", "import importlib.metadata as m; print(m.version('bentoml'))"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    typer.run(main)
