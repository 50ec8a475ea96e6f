"""The monitor: closes one event day after the other and judges it; asks for a retrain when a limit is passed.

Its source is the lake; services/monitor runs it. Each day gives one line in HOME/monitor/fraud/windows.jsonl, and an
Evidently report beside it:

    {"day": "2026-03-04", "rows": 1012, "drift": {"share": 0.31, …}, "parity": {"compared": 1012, "mismatched": 0, …},
     "quality": {"average_precision": 0.61, …}, "alerts": [{"kind": "drift", "message": "…"}], …}

Restarted, it goes on after the last line. An alert goes to the topic fraud.alerts, at least once; one of the same kind
and model version is repeated only after a week.
"""

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import duckdb
import pandas as pd

from whiteboard.drift import SHARE_LIMIT, Baseline, DriftVerdict
from whiteboard.eventlog import EventProducer
from whiteboard.events import Alert
from whiteboard.fraud.events import (
    ALERTS,
    DECISIONS,
    LABELS,
    SCHEMAS,
    SYSTEM,
    TRANSACTIONS,
    Decision,
    Label,
    Transaction,
)
from whiteboard.fraud.features import FEATURES, point_in_time_sql, unseen_events_sql
from whiteboard.fraud.monitor_metrics import LIMIT, REGISTERED, export
from whiteboard.lake import Lake, connect
from whiteboard.quality import LiveQuality, live_quality
from whiteboard.registry import CHALLENGER, CHAMPION, Registry
from whiteboard.settings import Settings
from whiteboard.skew import Coverage, Skew, comparable, compare, feature_columns
from whiteboard.telemetry import BEAT

log = logging.getLogger("monitor")

NOT_DRIFT = {"is_weekend"}  # follows the calendar: a single day differs from any week
LEAST_FRAUDS = 20  # below it average precision is mostly noise
QUALITY_DAYS = 3  # of matured decisions, for enough frauds
REPEAT_AFTER = 7  # windows, until an alert of the same kind on the same version is sent again
SETTLE_S = 3.0  # from the first decision of a later day until what workers buffer (2 s) is in the lake too
AT_ONCE = 2_000  # decisions of a partition compared in one go; DuckDB takes some 20 MB for a thousand
NEWEST = 5  # decisions that tell which event day it is; their median withstands two strays


@dataclass(frozen=True)
class Limits:
    """Beyond which the monitor asks for a retrain."""

    drift_share: float = SHARE_LIMIT  # of the columns
    average_precision: float = 0.3  # at least
    mismatched: int = 0  # decisions with other features offline


class Monitor:
    """Judges the event days of one home."""

    def __init__(
        self,
        settings: Settings,
        *,
        maturity_days: int = 5,
        limits: Limits | None = None,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._settings, self._maturity_days, self._settle_s = settings, maturity_days, settle_s
        self._limits = limits or Limits()
        self._lake, self._registry = Lake(settings.lake_dir), Registry(settings)
        self._folder = settings.monitor_dir / "fraud"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / "windows.jsonl"
        self._windows = _complete_lines(self._path)
        self._baselines: dict[str, Baseline | None] = {}
        for window in self._windows:
            export(window)
        LIMIT.labels("drift").set(self._limits.drift_share)
        LIMIT.labels("quality").set(self._limits.average_precision)
        LIMIT.labels("parity").set(self._limits.mismatched)

    def follow(self) -> None:
        """Exports which versions the registry calls champion and challenger now."""
        for alias in (CHAMPION, CHALLENGER):
            ref = self._registry.by_alias(SYSTEM, alias)
            REGISTERED.set(SYSTEM, alias, ref.version if ref else None)

    def work(self, close_last: bool = False, stop: threading.Event | None = None) -> int:
        """Judges every day that is over; returns how many it judged before `stop` was set.

        A day is over when a later one has begun: when most of the newest decisions are about it, since a single payment
        may be dated anywhere. With `close_last` all days are over.
        """
        judged = 0
        with connect() as connection:
            for day in self._waiting(connection, close_last):
                if stop is not None and stop.is_set():
                    break
                BEAT.set_to_current_time()  # a backlog of days may take minutes
                self._judge(connection, day)
                judged += 1
        return judged

    def _waiting(self, connection: duckdb.DuckDBPyConnection, close_last: bool) -> list[date]:
        """The days to judge, in order. A decision that came after its day was judged is in no window."""
        done = date.fromisoformat(self._windows[-1]["day"]) if self._windows else None
        settled_s = datetime.now(UTC).timestamp() - self._settle_s
        decisions = self._decisions(done)
        begun = connection.sql(f"SELECT DISTINCT {_DAY} AS day FROM {decisions} ORDER BY day").fetchall()
        ((present,),) = connection.sql(
            f"SELECT quantile_disc(day, 0.5) FROM (SELECT {_DAY} AS day FROM {decisions} "
            f"WHERE epoch(created_timestamp) < {settled_s} ORDER BY created_timestamp DESC LIMIT {NEWEST})"
        ).fetchall()
        over = present or date.min
        return [day for (day,) in begun if (close_last or day < over) and (done is None or day > done)]

    def _decisions(self, since: date | None = None) -> str:
        return self._lake.relation(DECISIONS, Decision, since)

    def _judge(self, connection: duckdb.DuckDBPyConnection, day: date) -> None:
        rows = connection.sql(f"SELECT * FROM {self._decisions(day)} WHERE {_DAY} = DATE '{day}'").df()
        version = str(rows["model_version"].mode().iloc[0])
        drift = self._drift(rows[(rows["model_version"] == version) & ~rows["degraded"]], version, day)
        parity, compared_to = self._parity(connection)
        quality = self._quality(connection, day, version)
        window: dict[str, Any] = {
            "day": day.isoformat(),
            "judged_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
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
        beyond = self._beyond(day, version, drift, parity, quality)
        window["beyond"] = [alert.kind for alert in beyond]
        window["alerts"] = self._raise(beyond)
        with self._path.open("a") as file:
            file.write(json.dumps(window) + "\n")
        self._windows.append(window)
        export(window)
        log.info(
            "day closed", extra={"day": window["day"], "drift_share": drift.share, "alerts": len(window["alerts"])}
        )

    def _drift(self, rows: pd.DataFrame, version: str, day: date) -> DriftVerdict:
        baseline = self._baseline(version)
        if baseline is None:
            return DriftVerdict(len(rows), limit=self._limits.drift_share)
        window = feature_columns(rows["features"]).assign(fraud_probability=rows["fraud_probability"].to_numpy())
        return baseline.compare(window, self._folder / "reports" / f"{day}.html", self._limits.drift_share)

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
        skew, coverage = Skew(), self._read_events(connection)
        relations = {"transactions": "seen_transactions", "labels": "seen_labels"}
        recomputed = partial(point_in_time_sql, visibility="watermark", **relations)
        while not (ready := self._next_to_compare(connection, done, coverage)).empty:
            unseen = partial(unseen_events_sql, **relations)
            skew += compare(connection, ready, coverage, recomputed, unseen, "transaction_id")
            places = ready["epoch"].astype(str) + "/" + ready["partition"].astype(str)
            done |= {str(at): int(last) + 1 for at, last in ready.groupby(places)["offset"].max().items()}
            BEAT.set_to_current_time()
        return skew, done

    def _read_events(self, connection: duckdb.DuckDBPyConnection) -> dict[str, dict[tuple[int, int], int]]:
        """Reads the events that features come from into tables, once for all their scans; what the lake then covered.

        The lake is thousands of small files, and every scan opens them all.
        """
        # Coverage first: the events read after it may be more than it says, but never fewer.
        coverage = {topic: self._lake.coverage(topic) for topic in (TRANSACTIONS, LABELS)}
        for table, topic, kind in (("seen_transactions", TRANSACTIONS, Transaction), ("seen_labels", LABELS, Label)):
            connection.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS FROM {self._lake.relation(topic, kind)}")
        return coverage

    def _next_to_compare(
        self, connection: duckdb.DuckDBPyConnection, done: dict[str, int], coverage: Coverage
    ) -> pd.DataFrame:
        """The next decisions that can be compared, of each partition the oldest; a backlog must fit into memory too."""
        known = ", ".join(f"({at.replace('/', ', ')}, {following})" for at, following in {"-1/-1": 0, **done}.items())
        fresh = connection.sql(
            f"SELECT d.* FROM {self._decisions()} d LEFT JOIN (VALUES {known}) AS done(epoch, partition, following) "
            'USING (epoch, partition) WHERE "offset" >= coalesce(following, 0) '
            f'QUALIFY row_number() OVER (PARTITION BY epoch, partition ORDER BY "offset") <= {AT_ONCE} '
            'ORDER BY epoch, partition, "offset"'
        ).df()
        return comparable(fresh, coverage)

    def _quality(self, connection: duckdb.DuckDBPyConnection, day: date, version: str) -> LiveQuality:
        """Live quality of `version` over the newest days whose labels have mostly come in by `day`."""
        until = day - timedelta(days=self._maturity_days)
        since = until - timedelta(days=QUALITY_DAYS - 1)
        query = f"""
            SELECT decision, propensity, fraud_probability, known.is_fraud FROM {self._decisions(since)} LEFT JOIN (
                SELECT transaction_id, arg_max(is_fraud, event_timestamp) AS is_fraud
                FROM {self._lake.relation(LABELS, Label, since)} GROUP BY transaction_id
            ) known USING (transaction_id)
            WHERE {_DAY} BETWEEN DATE '{since}' AND DATE '{until}' AND model_version = $version"""
        return live_quality(connection.execute(query, {"version": version}).df())

    def _beyond(self, day: date, version: str, drift: DriftVerdict, parity: Skew, quality: LiveQuality) -> list[Alert]:
        """An alert for each limit that the day is beyond."""
        limits, at, found = self._limits, datetime.combine(day, time.max, UTC), list[Alert]()

        def beyond(kind: Literal["drift", "quality", "parity"], value: float, limit: float, message: str) -> None:
            alert = Alert(
                event_timestamp=at, kind=kind, model_version=version, value=value, limit=limit, message=message
            )
            found.append(alert)

        if drift.drifted:
            farthest = ", ".join(drift.farthest())
            beyond(
                "drift", drift.share, drift.limit, f"{drift.share:.0%} of the features drifted, above all {farthest}"
            )
        ap = quality.average_precision
        if ap is not None and quality.mature and quality.frauds >= LEAST_FRAUDS and ap < limits.average_precision:
            beyond("quality", ap, limits.average_precision, f"live average precision fell to {ap:.2f}")
        if (wrong := parity.mismatched) > limits.mismatched:
            beyond("parity", wrong, limits.mismatched, f"{wrong} decisions had other features than the lake gives")
        return found

    def _raise(self, found: Sequence[Alert]) -> list[dict[str, Any]]:
        """Sends those alerts that were not sent lately, and returns what the window's line says of them."""
        lately = {(a["kind"], a["model_version"]) for w in self._windows[-REPEAT_AFTER:] for a in w["alerts"]}
        alerts = [alert for alert in found if (alert.kind, alert.model_version) not in lately]
        if alerts:
            with EventProducer(self._settings, "monitor", SCHEMAS) as producer:
                for alert in alerts:
                    producer.send(ALERTS, alert, key=alert.kind)
        return [
            {"kind": a.kind, "model_version": a.model_version, "message": a.message, "value": a.value} for a in alerts
        ]


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
