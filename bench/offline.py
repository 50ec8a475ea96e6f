"""How the training set grows: rows, seconds, CPU and memory at 1×, 2×, 4× the Handbook's world, DuckDB beside Spark.

    .venv/bin/python -m bench.offline --scales 1,2,4 --engines duckdb,spark --plot docs/images/offline.svg

A world of 5,000 cards, 10,000 terminals and 183 days (1.75 million payments), or that many times as many cards and
terminals, is simulated into a lake. Each measurement is a process of its own: `features` is the point-in-time SQL alone
(lake → Parquet), `build` the whole training set (with the labels' delay, through Feast, into a frame). Peak memory is
that of the process and its children (Spark's Java) together. Where both engines have run, their files are compared.
"""

import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import duckdb
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import typer
from msgspec import Struct
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.events import DECISIONS, LABELS, TRANSACTIONS, Decision, Label, Transaction
from whiteboard.fraud.features import FEATURES
from whiteboard.fraud.world import WorldConfig, simulate
from whiteboard.lake import Lake, arrow_schema
from whiteboard.settings import Settings

Part = Literal["features", "build"]
EVERY_S = 0.1  # between two looks at the memory
CUSTOMERS, DAYS = 5_000, 183  # the Handbook's world


def lake_of(home: Path, customers: int, days: int) -> None:
    """A home with a lake of the world's payments and labels, in a file for each day, unless it is there already."""
    settings = Settings(home=home)
    if (home / "ready").exists():
        return
    FeatureStore.apply(settings)
    world = WorldConfig(customers=customers, terminals=2 * customers, start=date(2018, 4, 1), days=days)
    made = simulate(world).transactions.sort_values("created_timestamp", ignore_index=True)
    lake = Lake(settings.lake_dir)
    commit(lake, TRANSACTIONS, Transaction, made)
    known = made["label_timestamp"]
    labels = made.assign(transaction_timestamp=made["event_timestamp"], event_timestamp=known, created_timestamp=known)
    commit(lake, LABELS, Label, labels.assign(source="history"))
    (home / "ready").touch()


def commit(lake: Lake, topic: str, kind: type[Struct], frame: pd.DataFrame) -> None:
    """Commits the rows of `frame` to the lake, as one partition."""
    schema = arrow_schema(kind)
    rows = frame.assign(epoch=0, partition=0, offset=np.arange(len(frame)), trace="")
    columns = [pa.array(rows[f.name], f.type) if f.name in rows else pa.nulls(len(rows), f.type) for f in schema]
    table = pa.Table.from_arrays(columns, schema=schema)
    lake.append(topic, 0, 0, 0, len(frame) - 1, table, frame["event_timestamp"].dt.date.tolist())


def run(home: Path, engine: str, master: str, part: Part) -> dict[str, Any]:
    """What one process does: the features, or the training set; rows, and seconds without imports."""
    from pipelines.fraud.dataset import build, labelled_rows, write_features
    from whiteboard.executors import executor
    from whiteboard.lake import connect

    settings = Settings.model_validate({"home": home, "offline_executor": engine, "spark_master": master})
    began = time.perf_counter()
    if part == "build":
        rows = len(build(settings))
        return {"rows": rows, "seconds": time.perf_counter() - began}
    lake = Lake(settings.lake_dir)
    topics = ((TRANSACTIONS, Transaction), (LABELS, Label), (DECISIONS, Decision))
    with connect() as connection:
        labelled_rows(connection, *(lake.relation(*topic) for topic in topics), pd.Timestamp.now("UTC"))
        with executor(settings, connection) as running:
            began = time.perf_counter()
            write_features(connection, running, lake, home / f"{engine}.parquet")
            seconds = time.perf_counter() - began
        rows = connection.table("training_rows").count("*").fetchall()[0][0]
    return {"rows": rows, "seconds": seconds}


def measured(home: Path, engine: str, master: str, part: Part) -> dict[str, Any]:
    """What `run` gives, in a process of its own, with CPU seconds and peak memory of it and its children."""
    command = [sys.executable, "-m", "bench.offline", "--home", str(home), "--engines", engine, "--master", master]
    child = subprocess.Popen([*command, "--only", part], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    tree, peak, cpu = psutil.Process(child.pid), 0, {}
    while child.poll() is None:
        held = 0
        for process in [tree, *tree.children(recursive=True)]:
            try:
                held += process.memory_info().rss
                cpu[process.pid] = sum(process.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, held)
        time.sleep(EVERY_S)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    assert child.stdout is not None
    found: dict[str, Any] = json.loads(child.stdout.read())
    return found | {"engine": engine, "part": part, "cpu_s": sum(cpu.values()), "peak_gb": peak / 1e9}


def differing(home: Path) -> tuple[int, float]:
    """Of the two engines' features: how many values differ in any bit, and by how much relatively at most."""
    wanted = ", ".join(
        f"count(*) FILTER (WHERE a.{f} <> b.{f}), max(abs(a.{f} - b.{f}) / nullif(abs(a.{f}), 0))" for f in FEATURES
    )
    found = duckdb.sql(
        f"SELECT {wanted} FROM '{home}/duckdb.parquet' a JOIN '{home}/spark.parquet' b USING (transaction_id)"
    ).fetchall()[0]
    return sum(found[::2]), float(np.nanmax([x or 0.0 for x in found[1::2]]))


def table_of(results: list[dict[str, Any]]) -> Table:
    """The results, a row each."""
    table = Table("scale", "rows", "by", "what", "seconds", "CPU s", "peak GB", "rows by CPU s", "KB a row")
    for r in results:
        table.add_row(
            f"{r['scale']:g}×", f"{r['rows']:,}", r["engine"], r["part"], f"{r['seconds']:.0f}", f"{r['cpu_s']:.0f}",
            f"{r['peak_gb']:.1f}", f"{r['rows'] / r['cpu_s']:,.0f}", f"{r['peak_gb'] * 1e6 / r['rows']:.1f}",
        )  # fmt: skip
    return table


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """CPU seconds and peak memory over rows, a line for each engine and part."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "whiteboard", "font.size": 9}
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for axis, key, label in zip(axes, ("cpu_s", "peak_gb"), ("CPU seconds", "peak memory, GB"), strict=True):
        for engine, part in sorted({(r["engine"], r["part"]) for r in results}):
            line = [r for r in results if (r["engine"], r["part"]) == (engine, part)]
            style = {"duckdb": "tab:blue", "spark": "tab:orange"}[engine], {"features": "-", "build": "--"}[part]
            x, y = [r["rows"] / 1e6 for r in line], [r[key] for r in line]
            axis.plot(x, y, color=style[0], linestyle=style[1], marker="o", label=f"{engine}, {part}")
        axis.set(xlabel="million payments", ylabel=label, xlim=(0, None), ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main(
    scales: Annotated[str, typer.Option(help="times the Handbook's cards and terminals")] = "1,2,4",
    engines: Annotated[str, typer.Option(help="of duckdb and spark")] = "duckdb,spark",
    parts: Annotated[str, typer.Option(help="of features and build")] = "features,build",
    days: Annotated[int, typer.Option(min=8, help="length of the worlds")] = DAYS,
    master: Annotated[str, typer.Option(help="Spark's")] = "local[2]",
    home: Annotated[Path | None, typer.Option(help="where the lakes are kept [default: thrown away]")] = None,
    out: Annotated[Path | None, typer.Option(help="the results as JSON; those of other runs in it stay")] = None,
    plot_to: Annotated[Path | None, typer.Option("--plot", help="the curves of --out as SVG or PNG")] = None,
    only: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measures, prints a table, and draws the curves."""
    if only is not None:
        assert home is not None
        print(json.dumps(run(home, engines, master, only)))  # type: ignore[arg-type]
        return
    results: list[dict[str, Any]] = json.loads(out.read_text()) if out is not None and out.exists() else []
    with tempfile.TemporaryDirectory() as temporary, Progress() as bar:
        asked = [(float(s), e, p) for s in scales.split(",") for e in engines.split(",") for p in parts.split(",")]
        task = bar.add_task("offline", total=len(asked))
        for scale, engine, part in asked:
            folder = (home or Path(temporary)) / f"{scale:g}x{days}"
            bar.update(task, description=f"{scale:g}×, {engine}, {part}")
            lake_of(folder, round(CUSTOMERS * scale), days)
            new = measured(folder, engine, master, part) | {"scale": scale, "days": days}  # type: ignore[arg-type]
            keys = ("scale", "days", "engine", "part")
            results = [r for r in results if [r[k] for k in keys] != [new[k] for k in keys]] + [new]
            results.sort(key=lambda r: (r["days"], r["engine"], r["part"], r["scale"]))
            if out is not None:
                out.write_text(json.dumps(results, indent=1))
            if (folder / "duckdb.parquet").exists() and (folder / "spark.parquet").exists() and part == "features":
                count, most = differing(folder)
                bar.print(f"{scale:g}×: {count} values of DuckDB and Spark differ, by {most:.1e} at most")
            bar.advance(task)
    Console().print(table_of(results))
    if plot_to is not None:
        plot([r for r in results if r["days"] == days], plot_to)


if __name__ == "__main__":
    typer.run(main)
