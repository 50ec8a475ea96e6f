"""What the monitor wrote about the days that it has judged, and whether one of them asks for a retrain.

asks_for_retrain(settings, date(2026, 3, 4))
["31% of the features drifted, above all customer_mean_7d, …"]
"""

import json
from datetime import date
from typing import Any

from whiteboard.errors import NotYetError
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


def asks_for_retrain(settings: Settings, day: date) -> list[str]:
    """The messages of the alerts on `day` that a retrain may answer; none if all was well, or nothing was decided.

    Raises NotYetError while the monitor has judged neither that day nor a later one.
    """
    windows = judged_days(settings)
    if not windows or windows[-1]["day"] < day.isoformat():
        newest = f"the newest that it has is {windows[-1]['day']}" if windows else "it has judged no day"
        raise NotYetError(
            f"the monitor has not judged {day}, {newest}; a day is judged when decisions of a later one come in"
        )
    alerts = [alert for window in windows if window["day"] == day.isoformat() for alert in window["alerts"]]
    return [alert["message"] for alert in alerts if alert["kind"] in LEARNABLE]
