"""The recommendation demo at its smallest scale, as a user starts it: up to the day on which tastes shift."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.persons import distinct, mentions
from whiteboard.recommendation.events import IMPRESSIONS, Impression
from whiteboard.settings import Settings

pytestmark = pytest.mark.timeout(1_000)  # a busy machine is no broken promise
WHITEBOARD = Path(sys.executable).with_name("whiteboard")


def test_the_demo_keeps_every_promise_and_says_what_it_measured(tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = [str(WHITEBOARD), "demo", "--home", str(home), "--system", "recommendation"]
    command += ["--customers", "150", "--seed", "3", "--live-days", "9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((home / "report" / "results.json").read_text())["recommendation"]
    events, parity = found["events"], found["parity"]
    assert events["produced"] == events["in_lake"] + events["dead_lettered"]
    assert (found["failed_requests"], parity["mismatched"]) == (0, 0)
    assert parity["compared"] > 1000 and found["decisions"] > 500
    assert found["models"][0]["promoted"] is True
    assert set(found["quality"]) == {"popularity", "before", "during", "after"}
    before, popular = (found["quality"][period]["clicks_per_request"] for period in ("before", "popularity"))
    assert before > popular, "the ranker earns its launch"
    assert {"clicks_per_request", "online", "seconds"} <= set(found["batch"])
    users = distinct(Settings(home=home), "user_id", {IMPRESSIONS: Impression})
    assert len(users) > 30 and mentions(home / "world", users), "the search finds ids where there are some"
    for folder in ("logs", "report", "mlflow", "models", "monitor"):
        assert mentions(home / folder, users) == {}
    assert (
        '"recommendation"' in (home / "report" / "index.html").read_text()
        or "Recommendation" in (home / "report" / "index.html").read_text()
    )
