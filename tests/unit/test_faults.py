"""Injected faults: only where they are allowed, never in production, and over when the drill is."""

from pathlib import Path

import pytest

from whiteboard.errors import DependencyError, SettingsError
from whiteboard.faults import injectable, injected
from whiteboard.settings import Settings


def read(key: str) -> str:
    return f"row of {key}"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, faults=True)


def test_without_permission_the_function_is_itself(tmp_path: Path) -> None:
    assert injectable(Settings(home=tmp_path), "online store", read) is read


def test_production_refuses_to_start_with_faults_allowed(tmp_path: Path) -> None:
    allowed = Settings(home=tmp_path, faults=True, env="production")
    with pytest.raises(SettingsError, match="WHITEBOARD_FAULTS"):
        injectable(allowed, "online store", read)


def test_calls_fail_while_the_fault_lasts_and_not_after(settings: Settings) -> None:
    faulty = injectable(settings, "online store", read)
    assert faulty("c-1") == "row of c-1"
    with injected(settings, "online store", error="out of order"), pytest.raises(DependencyError, match="out of order"):
        faulty("c-1")
    assert faulty("c-1") == "row of c-1"
    with injected(settings, "online store", error="again"), pytest.raises(DependencyError, match="again"):
        faulty("c-1")


def test_calls_take_longer_by_the_delay(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("whiteboard.faults.time.sleep", waited.append)
    faulty = injectable(settings, "online store", read)
    with injected(settings, "online store", delay_s=0.5):
        assert faulty("c-1") == "row of c-1"
    assert waited == [0.5]


def test_another_dependency_is_left_alone(settings: Settings) -> None:
    faulty = injectable(settings, "online store", read)
    with injected(settings, "another one", error="out of order"):
        assert faulty("c-1") == "row of c-1"
