"""What the demo's components wrote, as results: events, parity, latency, quality by period, drift, models.

Read from the lake, the monitor's windows, the dead letters and the world's truth; nothing here is remembered from the
run but what only the client can know (what it sent, latencies, failures).
"""

from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.table import Table

from whiteboard.deadletters import list_dead_letters
from whiteboard.fraud.events import DECISIONS, LABELS, TRANSACTIONS, Decision, Label, Transaction
from whiteboard.fraud.metrics import Scored, average_precision, card_precision, dense
from whiteboard.lake import Lake, connect
from whiteboard.settings import Settings

if TYPE_CHECKING:
    from pipelines.fraud.demo import Chronicle


def events(settings: Settings, chronicle: "Chronicle") -> dict[str, int]:
    """What went into the log and where it came out: lake and dead letters must add up to what was produced."""
    lake = Lake(settings.lake_dir)
    with connect() as connection:
        stored = {
            topic: connection.sql(f"SELECT count(*) FROM {lake.relation(topic, kind)}").fetchall()[0][0]
            for topic, kind in ((TRANSACTIONS, Transaction), (LABELS, Label), (DECISIONS, Decision))
        }
    sent = chronicle.produced
    return {
        "produced": sent[TRANSACTIONS] + sent[LABELS] + sent["malformed"] + len(chronicle.answers.decisions),
        "in_lake": sum(stored.values()),
        "dead_lettered": len(list_dead_letters(settings, "fraud")),
    }


def decided(settings: Settings) -> pd.DataFrame:
    """Every decision in the lake beside the world's truth, in order of event_timestamp, with its event `day`."""
    relation = Lake(settings.lake_dir).relation(DECISIONS, Decision)
    columns = "transaction_id, event_timestamp, customer_id, decision, fraud_probability, model_version, degraded"
    with connect() as connection:
        frame = connection.sql(f"SELECT {columns} FROM {relation} ORDER BY event_timestamp").df()
    truth = pd.read_parquet(settings.home / "world" / "truth.parquet", columns=["transaction_id", "scenario"])
    joined: pd.DataFrame = frame.merge(truth, on="transaction_id", validate="one_to_one")
    return joined.assign(is_fraud=joined["scenario"] > 0, day=joined["event_timestamp"].dt.date)


def quality(frame: pd.DataFrame) -> dict[str, float | None]:
    """Average precision and Card Precision@100 of decisions against the truth; None where there is no fraud."""
    if not frame["is_fraud"].any():
        return {"average_precision": None, "card_precision_at_100": None, "frauds": 0, "decisions": len(frame)}
    fraud = frame["is_fraud"].to_numpy(dtype=float)
    scored = Scored(
        day=dense(frame["event_timestamp"].dt.floor("D")),
        card=dense(frame["customer_id"]),
        is_fraud=fraud,
        amount=np.zeros(len(frame)),
        risk=frame["fraud_probability"].to_numpy(),
    )
    return {
        "average_precision": round(average_precision(fraud, scored.risk), 4),
        "card_precision_at_100": round(card_precision(scored), 4),
        "random_average_precision": round(float(fraud.mean()), 4),
        "card_precision_ceiling": round(card_precision(replace(scored, risk=fraud)), 4),
        "frauds": int(fraud.sum()),
        "decisions": len(frame),
    }


def periods(frame: pd.DataFrame, changed: date, promoted_day: str | None) -> dict[str, dict[str, float | None]]:
    """Quality before the pattern changed, while the old model met it, and after the new one took over."""
    swapped = date.fromisoformat(promoted_day) if promoted_day else date.max
    return {
        "before": quality(frame[frame["day"] < changed]),
        "during": quality(frame[(frame["day"] >= changed) & (frame["day"] <= swapped)]),
        "after": quality(frame[frame["day"] > swapped]),
    }


def percentiles(latencies_ms: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in ms, as the client saw them."""
    return {f"p{p}": round(float(np.percentile(latencies_ms, p)), 2) for p in (50, 95, 99)} if latencies_ms else {}


def days(frame: pd.DataFrame, windows: list[dict[str, Any]], latencies: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One row a live day for the report's plots."""
    seen = {window["day"]: window for window in windows}
    rows = []
    for day, part in frame.groupby("day"):
        name = str(day)
        judged, measured = seen.get(name), quality(part)
        rows.append(
            {
                "day": name,
                "decisions": len(part),
                "average_precision": measured["average_precision"],
                "card_precision_at_100": measured["card_precision_at_100"],
                "random_average_precision": measured.get("random_average_precision"),
                "card_precision_ceiling": measured.get("card_precision_ceiling"),
                "drift_share": judged["drift"]["share"] if judged else None,
                "drift_limit": judged["drift"]["limit"] if judged else None,
                **{f"{p}_ms": value for p, value in percentiles(latencies.get(name, [])).items()},
                **{action: int((part["decision"] == action).sum()) for action in ("approve", "review", "decline")},
            }
        )
    return rows


def artefacts(settings: Settings) -> list[dict[str, str]]:
    """What the run left behind, as paths relative to the report."""
    reports = sorted((settings.monitor_dir / "fraud" / "reports").glob("*.html"))
    found = [
        ("All numbers (JSON)", settings.report_dir / "results.json"),
        ("Monitor's windows (JSON lines)", settings.monitor_dir / "fraud" / "windows.jsonl"),
        *((f"Evidently report {path.stem}", path) for path in reports),
        ("Event lake (Parquet)", settings.lake_dir),
        ("MLflow runs and registry", settings.mlflow_dir),
        ("Feast registry and online store", settings.feast_dir),
        ("The world and its truth", settings.home / "world"),
        ("Logs", settings.logs_dir),
    ]
    return [{"label": label, "path": f"../{path.relative_to(settings.home)}"} for label, path in found]


def broken_promises(results: dict[str, Any]) -> list[str]:
    """Which of the demo's promises the run broke, in words; empty if it kept them all."""
    counted, parity = results["events"], results["parity"]
    lost = counted["produced"] - counted["in_lake"] - counted["dead_lettered"]
    checks = {
        f"{lost} events lost (produced {counted['produced']:,})": lost != 0,
        f"{parity['mismatched']} decisions with other features offline": parity["mismatched"] != 0,
        f"only {parity['compared']} of {results['decisions']} decisions compared, {parity['degraded']} were degraded": (
            parity["compared"] + parity["degraded"] < results["decisions"]
        ),
        f"{results['failed_requests']} requests failed: {results['failures'][:2]}": results["failed_requests"] != 0,
    }
    return [text for text, broken in checks.items() if broken]


def table(results: dict[str, Any]) -> Table:
    """The run in one table."""
    out = Table(title="Fraud detection, one life", show_header=False, title_justify="left")
    counted, parity, drift, latency = (results[k] for k in ("events", "parity", "drift", "latency_ms"))
    out.add_row("events", f"{counted['produced']:,} produced, {counted['in_lake']:,} in the lake, "
                f"{counted['dead_lettered']} dead letters")  # fmt: skip
    out.add_row("stream", f"{results['stream']['events_per_s']:,} events/s from Kafka to features and lake")
    out.add_row("decisions", f"{results['decisions']:,} over HTTP, {results['failed_requests']} failed")
    out.add_row("latency", ", ".join(f"{name} {value:.1f} ms" for name, value in latency.items()))
    out.add_row("parity", f"{parity['compared']:,} decisions recomputed offline, {parity['mismatched']} differ, "
                f"{parity['stale']:,} had not seen the newest event")  # fmt: skip
    out.add_row("drift", f"happened {drift['happened_day']}, detected {drift['detected_day']}, "
                f"{drift['false_alarms']} false alarms")  # fmt: skip
    for period, values in results["quality"].items():
        ap, cp = values["average_precision"], values["card_precision_at_100"]
        text = "no frauds" if ap is None else f"average precision {ap:.3f}, Card Precision@100 {cp:.3f}"
        out.add_row(f"quality {period}", f"{text} ({values['frauds']} frauds in {values['decisions']:,} decisions)")
    for model in results["models"]:
        out.add_row(
            f"version {model['version']}", f"{'promoted' if model['promoted'] else 'refused'}: {model['reason']}"
        )
    out.add_row("seconds", ", ".join(f"{name} {value:.0f}" for name, value in results["seconds"].items()))
    return out
