"""The monitor: closes one event day after the other and judges it; asks for a retrain when a limit is passed.

Its source is the lake; services/monitor runs it. Each day gives one line in HOME/monitor/fraud/windows.jsonl, and an
Evidently report beside it:

    {"day": "2026-03-04", "rows": 1012, "drift": {"share": 0.31, …}, "parity": {"compared": 1012, "mismatched": 0, …},
     "quality": {"average_precision": 0.61, …}, "alerts": [{"kind": "drift", "message": "…"}], …}

Restarted, it goes on after the last line. An alert goes to the topic fraud.alerts, once a kind and model version.
"""

import json
import logging
from dataclasses import asdict
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
from prometheus_client import Gauge

from whiteboard.drift import Baseline, DriftVerdict
from whiteboard.eventlog import EventProducer
from whiteboard.fraud.events import (
    ALERTS,
    DECISIONS,
    LABELS,
    SCHEMAS,
    TRANSACTIONS,
    Alert,
    Decision,
    Label,
    Transaction,
)
from whiteboard.fraud.features import FEATURES, point_in_time_sql, unseen_events_sql
from whiteboard.lake import Lake, connect
from whiteboard.quality import LiveQuality, live_quality
from whiteboard.registry import Registry
from whiteboard.settings import Settings
from whiteboard.skew import Skew, compare, covered, feature_columns

log = logging.getLogger("monitor")
DRIFT_SHARE = Gauge("whiteboard_monitor_drift_share", "share of columns that drifted on the last closed day")
COMPARED = Gauge("whiteboard_monitor_parity_compared", "decisions recomputed offline")
MISMATCHED = Gauge("whiteboard_monitor_parity_mismatched", "decisions whose features differ offline")
STALE = Gauge("whiteboard_monitor_parity_stale", "decisions that had not seen an event known before them")
LIVE = Gauge("whiteboard_monitor_live_quality", "quality on matured labels", ["metric"])
MODEL = Gauge("whiteboard_monitor_model_version", "model version that decided on the last closed day")

NOT_DRIFT = {"is_weekend"}  # follows the calendar: a single day differs from any week
LEAST_FRAUDS = 20  # below it average precision is mostly noise


class Monitor:
    """Judges the event days of one home."""

    def __init__(self, settings: Settings, *, maturity_days: int = 5, quality_limit: float = 0.3) -> None:
        self._settings, self._maturity_days, self._quality_limit = settings, maturity_days, quality_limit
        self._lake, self._registry = Lake(settings.lake_dir), Registry(settings)
        self._folder = settings.monitor_dir / "fraud"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / "windows.jsonl"
        self._windows = _complete_lines(self._path)
        self._baselines: dict[str, Baseline | None] = {}

    def work(self, close_last: bool = False) -> int:
        """Judges every day that is over (a later one has begun; all of them with `close_last`); returns how many."""
        with connect() as connection:
            days = [
                row[0]
                for row in connection.sql(f"SELECT DISTINCT {_DAY} AS d FROM {self._decisions()} ORDER BY d").fetchall()
            ]
            judged = self._windows[-1]["day"] if self._windows else ""
            waiting = [day for day in (days if close_last else days[:-1]) if day.isoformat() > judged]
            for i, day in enumerate(waiting):
                self._judge(connection, day, last=close_last and i == len(waiting) - 1)
        return len(waiting)

    def _decisions(self) -> str:
        return self._lake.relation(DECISIONS, Decision)

    def _judge(self, connection: duckdb.DuckDBPyConnection, day: date, last: bool) -> None:
        rows = connection.sql(f"SELECT * FROM {self._decisions()} WHERE {_DAY} = DATE '{day}'").df()
        version = str(rows["model_version"].mode().iloc[0])
        drift = self._drift(rows[rows["model_version"] == version], version, day)
        parity, compared_to = self._parity(connection)
        quality = self._quality(connection, day)
        window: dict[str, Any] = {
            "day": day.isoformat(),
            "rows": len(rows),
            "model_version": version,
            "drift": {
                "share": drift.share,
                "limit": drift.limit,
                "drifted": drift.drifted,
                "farthest": drift.farthest(),
            },
            "columns": {name: [round(c.score, 4), round(c.threshold, 4)] for name, c in drift.columns.items()},
            "parity": asdict(parity),
            "compared_to": compared_to,
            "quality": asdict(quality),
            "actions": rows["decision"].value_counts().to_dict(),
        }
        window["alerts"] = self._alerts(day, version, drift, parity, quality)
        with self._path.open("a") as file:
            file.write(json.dumps(window) + "\n")
        self._windows.append(window)
        self._export(window)
        log.info(
            "day closed", extra={"day": window["day"], "drift_share": drift.share, "alerts": len(window["alerts"])}
        )

    def _drift(self, rows: pd.DataFrame, version: str, day: date) -> DriftVerdict:
        baseline = self._baseline(version)
        if baseline is None:
            return DriftVerdict(len(rows))
        window = feature_columns(rows["features"]).assign(fraud_probability=rows["fraud_probability"].to_numpy())
        return baseline.compare(window, self._folder / "reports" / f"{day}.html")

    def _baseline(self, version: str) -> Baseline | None:
        """The baseline of the version that decided; None for decisions without a model."""
        if version not in self._baselines:
            ref = self._registry.version("fraud", version) if version.isdigit() else None
            columns = [*(f for f in FEATURES if f not in NOT_DRIFT), "fraud_probability"]
            self._baselines[version] = None
            if ref is not None:
                reference = pd.read_parquet(self._registry.download(ref) / "reference.parquet")
                self._baselines[version] = Baseline.of(reference, columns)
        return self._baselines[version]

    def _parity(self, connection: duckdb.DuckDBPyConnection) -> tuple[Skew, dict[str, int]]:
        """Compares what was decided since the last window, as far as the lake covers what the decisions had read."""
        done: dict[str, int] = dict(self._windows[-1]["compared_to"]) if self._windows else {}
        coverage = {topic: self._lake.coverage(topic) for topic in (TRANSACTIONS, LABELS)}
        fresh = connection.sql(f'SELECT * FROM {self._decisions()} ORDER BY epoch, partition, "offset"').df()
        fresh["place"] = fresh["epoch"].astype(str) + "/" + fresh["partition"].astype(str)
        fresh = fresh[fresh["offset"] >= fresh["place"].map(done).fillna(0)]
        ready = fresh["watermarks"].map(lambda w: covered(w, coverage)).astype(bool).groupby(fresh["place"]).cummin()
        chosen = fresh[ready.astype(bool)]
        done |= {str(at): int(offset) + 1 for at, offset in chosen.groupby("place")["offset"].max().items()}
        transactions = self._lake.relation(TRANSACTIONS, Transaction)
        labels = self._lake.relation(LABELS, Label)
        skew = compare(
            connection,
            chosen.drop(columns="place"),
            lambda rows: point_in_time_sql(rows, transactions, labels, "watermark"),
            lambda rows: unseen_events_sql(rows, transactions, labels),
        )
        return skew, done

    def _quality(self, connection: duckdb.DuckDBPyConnection, day: date) -> LiveQuality:
        """Live quality over the three days whose labels have mostly come in by `day`."""
        until = day - timedelta(days=self._maturity_days)
        query = (
            f"SELECT d.decision, d.propensity, d.fraud_probability, l.is_fraud FROM {self._decisions()} d "
            f"LEFT JOIN {self._lake.relation(LABELS, Label)} l USING (transaction_id) "
            f"WHERE d.event_timestamp::DATE BETWEEN DATE '{until - timedelta(days=2)}' AND DATE '{until}'"
        )
        return live_quality(connection.sql(query).df())

    def _alerts(
        self, day: date, version: str, drift: DriftVerdict, parity: Skew, quality: LiveQuality
    ) -> list[dict[str, Any]]:
        at = datetime.combine(day, time.max, UTC)
        raised = []
        if drift.drifted:
            text = f"{drift.share:.0%} of the features drifted, above all {', '.join(drift.farthest())}"
            raised.append(Alert(event_timestamp=at, kind="drift", model_version=version, value=drift.share,
                                limit=drift.limit, message=text))  # fmt: skip
        ap = quality.average_precision
        if ap is not None and quality.frauds >= LEAST_FRAUDS and ap < self._quality_limit:
            text = f"live average precision fell to {ap:.2f}"
            raised.append(Alert(event_timestamp=at, kind="quality", model_version=version, value=ap,
                                limit=self._quality_limit, message=text))  # fmt: skip
        if parity.mismatched:
            text = f"{parity.mismatched} decisions had other features than the lake gives"
            raised.append(Alert(event_timestamp=at, kind="parity", model_version=version, value=parity.mismatched,
                                limit=0, message=text))  # fmt: skip
        earlier = {(a["kind"], a["model_version"]) for w in self._windows for a in w["alerts"]}
        new = [a for a in raised if (a.kind, a.model_version) not in earlier]
        if new:
            with EventProducer(self._settings, "monitor", SCHEMAS) as producer:
                for alert in new:
                    producer.send(ALERTS, alert, key=alert.kind)
                producer.flush()
        return [{"kind": a.kind, "model_version": a.model_version, "message": a.message, "value": a.value} for a in new]

    def _export(self, window: dict[str, Any]) -> None:
        DRIFT_SHARE.set(window["drift"]["share"])
        COMPARED.set(sum(w["parity"]["compared"] for w in self._windows))
        MISMATCHED.set(sum(w["parity"]["mismatched"] for w in self._windows))
        STALE.set(sum(w["parity"]["stale"] for w in self._windows))
        for metric in ("precision", "recall", "average_precision"):
            if window["quality"][metric] is not None:
                LIVE.labels(metric).set(window["quality"][metric])
        MODEL.set(int(window["model_version"]) if window["model_version"].isdigit() else 0)


_DAY = "event_timestamp::DATE"


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """The windows written so far; a line cut off by a kill is dropped and its day judged again."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]
