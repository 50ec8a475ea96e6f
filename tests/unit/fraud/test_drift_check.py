"""What the monitor wrote about a day decides whether a retrain is asked for."""

import json
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.fraud.drift import asks_for_retrain, judged_days
from whiteboard.errors import NotYetError
from whiteboard.fraud.cli import app
from whiteboard.settings import Settings


def alert(kind: str) -> dict[str, object]:
    return {"kind": kind, "model_version": "1", "message": f"{kind} is beyond its limit", "value": 1.0}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A monitor that has judged the 3rd to the 6th of March, but for the 5th, on which nothing was decided."""
    settings = Settings(home=tmp_path)
    folder = settings.monitor_dir / "fraud"
    folder.mkdir(parents=True)
    days = [("2026-03-03", []), ("2026-03-04", [alert("drift"), alert("parity")]), ("2026-03-06", [alert("parity")])]
    lines = [json.dumps({"day": day, "alerts": alerts}) for day, alerts in days]
    (folder / "windows.jsonl").write_text("\n".join(lines) + '\n{"day": "2026-03-0')
    return settings


def test_an_alert_that_learning_can_answer_asks_for_a_retrain(settings: Settings) -> None:
    assert asks_for_retrain(settings, date(2026, 3, 4)) == ["drift is beyond its limit"]


@pytest.mark.parametrize("day", [3, 5, 6], ids=["all is well", "nothing was decided", "only parity, which is a bug"])
def test_other_days_do_not(settings: Settings, day: int) -> None:
    assert asks_for_retrain(settings, date(2026, 3, day)) == []


def test_a_day_that_is_not_judged_yet_is_an_error_to_be_retried(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(NotYetError, match="the newest that it has is 2026-03-06"):
        asks_for_retrain(settings, date(2026, 3, 7))
    with pytest.raises(NotYetError, match="it has judged no day"):
        asks_for_retrain(Settings(home=tmp_path / "fresh"), date(2026, 3, 7))


def test_the_line_that_is_being_written_is_left_out(settings: Settings) -> None:
    assert [window["day"] for window in judged_days(settings)] == ["2026-03-03", "2026-03-04", "2026-03-06"]


@pytest.mark.parametrize(("day", "code"), [("2026-03-04", 0), ("2026-03-03", 99)])
def test_the_command_says_no_by_its_exit_code(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, day: str, code: int
) -> None:
    monkeypatch.setenv("WHITEBOARD_HOME", str(settings.home))
    assert CliRunner().invoke(app, ["drift", "--as-of", day]).exit_code == code
