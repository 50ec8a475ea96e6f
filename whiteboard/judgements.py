"""What a system's monitor wrote about the days that it has judged: whether it asks for a retrain, how parity stands.

asks_for_retrain(settings, "fraud", datetime(2026, 3, 4, 12, 0, tzinfo=UTC), datetime(2026, 3, 4, 12, 15, tzinfo=UTC))
["31% of the features drifted, above all customer_mean_7d, …"]
"""

import json
from datetime import datetime
from typing import Any

from whiteboard.settings import Settings

LEARNABLE = ("drift", "quality")  # a parity alert is a bug, which no retraining mends


def judged_days(settings: Settings, system: str) -> list[dict[str, Any]]:
    """The lines of the monitor's windows.jsonl, oldest day first; the line that is just being written is left out."""
    try:
        text = (settings.monitor_dir / system / "windows.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def asks_for_retrain(settings: Settings, system: str, since: datetime, until: datetime) -> list[str]:
    """The messages of the alerts raised from `since` on and before `until` that a retrain may answer.

    By the time of the verdict, not by the day that it is about: consecutive intervals find each alert once, however
    late a day is judged.
    """
    judged = (w for w in judged_days(settings, system) if since <= datetime.fromisoformat(w["judged_at"]) < until)
    return [alert["message"] for window in judged for alert in window["alerts"] if alert["kind"] in LEARNABLE]


def last_parity(settings: Settings, system: str) -> int | None:
    """Mismatches in the monitor's last parity check that had something to compare; None before the first."""
    for window in reversed(judged_days(settings, system)):
        if window["parity"]["compared"]:
            return int(window["parity"]["mismatched"])
    return None
