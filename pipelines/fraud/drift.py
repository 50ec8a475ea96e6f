"""What the monitor wrote about the days that it has judged, and whether it asks for a retrain.

asks_for_retrain(settings, datetime(2026, 3, 4, 12, 0, tzinfo=UTC), datetime(2026, 3, 4, 12, 15, tzinfo=UTC))
["31% of the features drifted, above all customer_mean_7d, …"]
"""

import json
from datetime import datetime
from typing import Any

from whiteboard.fraud.events import SYSTEM
from whiteboard.settings import Settings

LEARNABLE = ("drift", "quality")  # a parity alert is a bug, which no retraining mends


def judged_days(settings: Settings) -> list[dict[str, Any]]:
    """The lines of the monitor's windows.jsonl, oldest day first; the line that is just being written is left out."""
    try:
        text = (settings.monitor_dir / SYSTEM / "windows.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def asks_for_retrain(settings: Settings, since: datetime, until: datetime) -> list[str]:
    """The messages of the alerts raised from `since` on and before `until` that a retrain may answer.

    By the time of the verdict, not by the day that it is about: consecutive intervals find each alert once, however
    late a day is judged.
    """
    judged = (w for w in judged_days(settings) if since <= datetime.fromisoformat(w["judged_at"]) < until)
    return [alert["message"] for window in judged for alert in window["alerts"] if alert["kind"] in LEARNABLE]
