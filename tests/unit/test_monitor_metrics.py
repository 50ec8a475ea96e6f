"""The monitor's lines as metrics: the last day as it is, all days added up."""

from math import isnan
from typing import Any

from prometheus_client import REGISTRY

from whiteboard.monitor_metrics import begin, export

SYSTEM = "fraud"


def window(day: str, **changes: Any) -> dict[str, Any]:
    return {
        "day": day,
        "rows": 100,
        "model_version": "3",
        "drift": {"share": 0.0},
        "columns": {"amount": [0.2, 0.4], "is_weekend": [0.0, 0.0]},
        "parity": {"compared": 100, "mismatched": 0, "stale": 7},
        "quality": {"precision": None, "recall": None, "average_precision": None},
        "beyond": [],
        "alerts": [],
        **changes,
    }


def value(name: str, /, **labels: str) -> float:
    found = REGISTRY.get_sample_value(f"whiteboard_monitor_{name}", {"system": SYSTEM, **labels})
    assert found is not None, name
    return found


def test_counters_add_up_over_days_and_gauges_show_the_last() -> None:
    begin(SYSTEM, drift=0.2, quality=0.5, parity=0)
    days, compared, alerts = (
        value("judged_days_total"),
        value("parity_compared_total"),
        value("alerts_total", kind="drift"),
    )
    quality = {"precision": 0.9, "recall": 0.5, "average_precision": 0.7}
    drifted = {"drift": {"share": 0.3}, "beyond": ["drift"], "alerts": [{"kind": "drift"}]}
    export(SYSTEM, window("2026-03-03", quality=quality, **drifted))
    assert (value("drift_share"), value("limit_passed", kind="drift")) == (0.3, 1)
    assert value("live_quality", metric="average_precision") == 0.7
    export(SYSTEM, window("2026-03-04", model_version="rules"))
    assert value("judged_days_total") == days + 2
    assert value("parity_compared_total") == compared + 200
    assert value("alerts_total", kind="drift") == alerts + 1
    assert (value("drift_share"), value("limit_passed", kind="drift"), value("model_version")) == (0, 0, 0)
    assert value("judged_day_timestamp_seconds") == 1772582400  # 2026-03-04T00:00:00Z


def test_limits_are_shown_and_counters_begin_at_zero() -> None:
    begin("another", drift=0.2, quality=0.5, parity=0)
    found = {kind: value("limit", system="another", kind=kind) for kind in ("drift", "quality", "parity")}
    assert found == {"drift": 0.2, "quality": 0.5, "parity": 0}
    assert value("alerts_total", system="another", kind="drift") == value("judged_days_total", system="another") == 0


def test_rollback_is_counted_and_has_no_limit_of_its_own() -> None:
    begin(SYSTEM, drift=0.2, quality=0.5, parity=0)
    before = value("rollbacks_total")
    alerts = [{"kind": "quality"}, {"kind": "rollback"}]
    export(SYSTEM, window("2026-03-05", beyond=["quality", "rollback"], alerts=alerts))
    assert value("rollbacks_total") == before + 1
    assert value("alerts_total", kind="rollback") >= 1
    limit = REGISTRY.get_sample_value("whiteboard_monitor_limit", {"system": SYSTEM, "kind": "rollback"})
    assert limit is None


def test_quality_that_is_not_known_is_not_a_number_rather_than_yesterdays() -> None:
    export(SYSTEM, window("2026-03-03", quality={"precision": 0.9, "recall": 0.5, "average_precision": 0.7}))
    export(SYSTEM, window("2026-03-04"))
    assert all(isnan(value("live_quality", metric=metric)) for metric in ("precision", "recall", "average_precision"))


def test_a_columns_drift_is_a_share_of_its_threshold_and_nothing_where_there_is_none() -> None:
    export(SYSTEM, window("2026-03-04"))
    assert value("column_drift_ratio", column="amount") == 0.5
    assert value("column_drift_ratio", column="is_weekend") == 0
