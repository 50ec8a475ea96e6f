"""What the monitor wrote decides whether a retrain is asked for."""

import json
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from whiteboard.fraud.cli import app
from whiteboard.judgements import asks_for_retrain, judged_days
from whiteboard.settings import Settings
from whiteboard.stages import day_or_moment


def at(hour: int, minute: int) -> datetime:
    return datetime(2026, 3, 10, hour, minute, tzinfo=UTC)


def alert(kind: str) -> dict[str, object]:
    return {"kind": kind, "model_version": "1", "message": f"{kind} is beyond its limit", "value": 1.0}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A monitor that has judged three days on the tenth, at 12:00, 12:10 and 12:30, and writes a fourth verdict."""
    settings = Settings(home=tmp_path)
    folder = settings.monitor_dir / "fraud"
    folder.mkdir(parents=True)
    days = [
        ("2026-03-03", at(12, 0), [alert("drift"), alert("parity")]),
        ("2026-03-04", at(12, 10), [alert("quality")]),
        ("2026-03-06", at(12, 30), [alert("parity")]),
    ]
    lines = [json.dumps({"day": day, "judged_at": judged.isoformat(), "alerts": a}) for day, judged, a in days]
    (folder / "windows.jsonl").write_text("\n".join(lines) + '\n{"day": "2026-03-0')
    return settings


def test_alerts_that_learning_can_answer_ask_for_a_retrain(settings: Settings) -> None:
    asked = asks_for_retrain(settings, "fraud", at(12, 0), at(12, 15))
    assert asked == ["drift is beyond its limit", "quality is beyond its limit"]


def test_intervals_side_by_side_find_each_alert_once(settings: Settings) -> None:
    edges = [at(11, 50), at(12, 0), at(12, 10), at(12, 20)]
    found = [asks_for_retrain(settings, "fraud", since, until) for since, until in pairwise(edges)]
    assert found == [[], ["drift is beyond its limit"], ["quality is beyond its limit"]]


def test_parity_is_a_bug_that_no_retrain_mends(settings: Settings) -> None:
    assert asks_for_retrain(settings, "fraud", at(12, 15), at(13, 0)) == []


def test_nothing_judged_asks_for_nothing(tmp_path: Path) -> None:
    assert asks_for_retrain(Settings(home=tmp_path), "fraud", at(0, 0), at(23, 0)) == []


def test_the_line_that_is_being_written_is_left_out(settings: Settings) -> None:
    assert [window["day"] for window in judged_days(settings, "fraud")] == ["2026-03-03", "2026-03-04", "2026-03-06"]


@pytest.mark.parametrize(("until", "code"), [("2026-03-10T12:15:00", 0), ("2026-03-10T12:00:00", 99)])
def test_the_command_says_no_by_its_exit_code(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, until: str, code: int
) -> None:
    monkeypatch.setenv("WHITEBOARD_HOME", str(settings.home))
    assert CliRunner().invoke(app, ["drift", "--since", "2026-03-10", "--until", until]).exit_code == code


def test_as_of_is_a_day_or_a_moment() -> None:
    assert day_or_moment("2026-03-04") == date(2026, 3, 4)
    assert day_or_moment("2026-03-10T12:15:00") == day_or_moment("2026-03-10T13:15:00+01:00") == at(12, 15)
    with pytest.raises(typer.BadParameter, match="'tomorrow' is neither"):
        day_or_moment("tomorrow")
