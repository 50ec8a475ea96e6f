"""`whiteboard experiment` on a lake in which one arm's users click and the other's do not."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.integration.fraud.history import into_lake
from whiteboard.cli import app
from whiteboard.errors import ExperimentError
from whiteboard.events import Exposure
from whiteboard.experiment import Experiments, load
from whiteboard.lake import Lake
from whiteboard.recommendation.events import EXPOSURES, IMPRESSIONS, INTERACTIONS, Impression, Interaction
from whiteboard.settings import Settings

START = datetime(2026, 3, 1, tzinfo=UTC)


def whiteboard(home: Path, *arguments: str) -> str:
    environment = {"COLUMNS": "200", "WHITEBOARD_HOME": str(home)}  # --home would outlive the test
    result = CliRunner().invoke(app, ["experiment", *arguments], env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def lived(home: Path, users: int = 600) -> Settings:
    """Every user met its arm on the first day and asked twice; most of the ranker's users clicked, few others did."""
    settings = Settings(home=home)
    arms = {
        f"u-{n}": Experiments.of(settings, "recommendation").assign(f"u-{n}", START)["launch"] for n in range(users)
    }
    at = {user: START + timedelta(minutes=n) for n, user in enumerate(arms)}
    exposures = [
        {"experiment": "launch", "unit_id": u, "arm": arm, "event_timestamp": at[u]} for u, arm in arms.items()
    ]
    shown = [
        {"request_id": f"r-{u}-{n}", "event_timestamp": at[u] + timedelta(hours=n), "user_id": u, "items": "[]",
         "recent": "[]", "candidates": 1, "model_version": "1", "degraded": False, "watermark": "{}", "latency_ms": 1.0}
        for u in arms for n in range(2)
    ]  # fmt: skip
    clicks = [
        {"interaction_id": f"x-{u}", "event_timestamp": at[u] + timedelta(hours=1), "user_id": u, "item_id": "i-1",
         "event_type": "click", "category": "garden", "request_id": f"r-{u}-0"}
        for n, (u, arm) in enumerate(arms.items()) if n % 10 < (8 if arm == "ranker" else 2)
    ]  # fmt: skip
    lake = Lake(settings.lake_dir)
    for topic, kind, rows in (
        (EXPOSURES, Exposure, exposures),
        (IMPRESSIONS, Impression, shown),
        (INTERACTIONS, Interaction, clicks),
    ):
        frame = pd.DataFrame(rows).sort_values("event_timestamp", kind="stable")
        into_lake(lake, topic, kind, frame.assign(created_timestamp=frame["event_timestamp"]))
    return settings


def test_an_experiment_is_declared_read_and_stopped(tmp_path: Path) -> None:
    declared = whiteboard(
        tmp_path, "run", "launch", "--arm", "popularity=0.5", "--arm", "ranker=0.5", "--guardrail", "requests=0.2",
        "--start", "2026-03-01", "--window-days", "2", "--minimum-effect", "0.5",
    )  # fmt: skip
    assert "launch.json" in declared.replace("\n", "")
    settings = lived(tmp_path)
    output = whiteboard(tmp_path, "report", "launch", "--until", "2026-03-10", "--stop")
    assert "launch — clicks_per_request of ranker rose" in output
    found = json.loads((tmp_path / "experiments" / "launch" / "decision.json").read_text())
    assert found["verdict"] == "launch" and sum(found["units"].values()) == 600
    assert (tmp_path / "experiments" / "launch" / "effect.png").stat().st_size > 5_000
    assert load(settings.home / "experiments" / "launch.json").stopped_at == datetime(2026, 3, 10, tzinfo=UTC)
    assert "stopped" in whiteboard(tmp_path, "list")


def test_units_whose_window_is_not_over_are_not_compared(tmp_path: Path) -> None:
    whiteboard(tmp_path, "run", "launch", "--arm", "popularity=0.5", "--arm", "ranker=0.5", "--start", "2026-03-01",
               "--window-days", "2")  # fmt: skip
    lived(tmp_path)
    with pytest.raises(ExperimentError, match="wait until each arm has some"):
        whiteboard(tmp_path, "report", "launch", "--until", "2026-03-02")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--arm", "popularity"), "expected name=number"),
        (("--arm", "popularity=half"), "no number"),
        (("--arm", "a=0.5", "--arm", "b=0.5", "--metric", "joy"), "no metric"),
        (("--arm", "a=0.5", "--arm", "b=0.5", "--system", "fraud"), "has no experiments"),
    ],
)
def test_what_cannot_be_started_is_refused_with_the_cure(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in whiteboard(tmp_path, "run", "x", *arguments)
