"""What the monitor exports: the day judged last as gauges, all judged days as counters, which a restart takes up again.

whiteboard_monitor_drift_share{system="fraud"} 0.31
whiteboard_monitor_limit_passed{kind="drift",system="fraud"} 1.0
whiteboard_monitor_parity_compared_total{system="fraud"} 14459.0
whiteboard_monitor_live_quality{metric="average_precision",system="fraud"} 0.61     NaN where it is not known (yet)
whiteboard_monitor_judged_day_timestamp_seconds{system="fraud"} 1.772582e+09        the day began then
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from math import nan
from typing import Any

from prometheus_client import Counter, Gauge

from whiteboard.telemetry import VersionGauge

DAYS = Counter("whiteboard_monitor_judged_days", "days judged", ["system"])
JUDGED_DAY = Gauge(
    "whiteboard_monitor_judged_day_timestamp_seconds", "beginning of the day judged last, as Unix time", ["system"]
)
DECISIONS = Gauge("whiteboard_monitor_decisions", "decisions of the day judged last", ["system"])
LIMIT = Gauge("whiteboard_monitor_limit", "beyond which the monitor asks for a retrain", ["system", "kind"])
PASSED = Gauge("whiteboard_monitor_limit_passed", "1 if the day judged last is beyond the limit", ["system", "kind"])
ALERTS = Counter("whiteboard_monitor_alerts", "alerts sent to the event log", ["system", "kind"])
DRIFT_SHARE = Gauge(
    "whiteboard_monitor_drift_share", "share of columns that drifted on the day judged last", ["system"]
)
COLUMN_DRIFT = Gauge(
    "whiteboard_monitor_column_drift_ratio",
    "distance of a column from its reference; above 1 it drifted",
    ["system", "column"],
)
COMPARED = Counter("whiteboard_monitor_parity_compared", "decisions recomputed offline", ["system"])
MISMATCHED = Counter("whiteboard_monitor_parity_mismatched", "decisions whose features differ offline", ["system"])
STALE = Counter("whiteboard_monitor_parity_stale", "decisions that had not seen an event known before them", ["system"])
LIVE = Gauge(
    "whiteboard_monitor_live_quality", "quality of the deciding version on matured labels", ["system", "metric"]
)
DECIDED = Gauge("whiteboard_monitor_model_version", "version that decided on the day judged last; 0: rules", ["system"])
REGISTERED = VersionGauge("whiteboard_registry_model", "model version behind an alias, as the registry has it")

ROLLBACKS = Counter("whiteboard_monitor_rollbacks", "versions taken out of service for their live quality", ["system"])

KINDS = ("drift", "quality", "parity")  # that have a limit; a rollback is an alert without one
METRICS = {"precision", "recall", "average_precision", "clicks_per_request", "ndcg_at_10", "coverage", "popular_share"}


def begin(system: str, **limits: float) -> None:
    """Exports the limits by kind, and counters from zero: an increase is seen only in what was there before."""
    for kind in KINDS:
        ALERTS.labels(system, kind)
        PASSED.labels(system, kind)
        LIMIT.labels(system, kind).set(limits[kind])
    ALERTS.labels(system, "rollback")
    for counter in (DAYS, COMPARED, MISMATCHED, STALE, ROLLBACKS):
        counter.labels(system)


def export(system: str, window: Mapping[str, Any]) -> None:
    """Exports one line of windows.jsonl; lines must come in order, each once."""
    DAYS.labels(system).inc()
    JUDGED_DAY.labels(system).set(datetime.fromisoformat(window["day"]).replace(tzinfo=UTC).timestamp())
    DECISIONS.labels(system).set(window.get("rows", 0))
    for kind in KINDS:
        PASSED.labels(system, kind).set(kind in window.get("beyond", ()))
    for alert in window["alerts"]:
        ALERTS.labels(system, alert["kind"]).inc()
        if alert["kind"] == "rollback":
            ROLLBACKS.labels(system).inc()
    DRIFT_SHARE.labels(system).set(window["drift"]["share"])
    for column, (score, threshold) in window.get("columns", {}).items():
        COLUMN_DRIFT.labels(system, column).set(
            score / threshold if threshold else 0.0
        )  # rounded to nothing: a constant column
    COMPARED.labels(system).inc(window["parity"]["compared"])
    MISMATCHED.labels(system).inc(window["parity"]["mismatched"])
    STALE.labels(system).inc(window["parity"]["stale"])
    for metric in METRICS & window["quality"].keys():
        value = window["quality"][metric]
        LIVE.labels(system, metric).set(nan if value is None else value)
    DECIDED.labels(system).set(int(window["model_version"]) if window["model_version"].isdigit() else 0)
