"""MLflow on SQLite, for real: versions, aliases, verified copies, and life without the registry."""

import os
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from whiteboard.errors import ModelError, RegistryUnavailableError
from whiteboard.manifest import MANIFEST
from whiteboard.registry import CHALLENGER, CHAMPION, Registry, RunRecord, VersionRef
from whiteboard.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

NAME = "toy"


def register(settings: Settings, text: str = "1 + 1") -> VersionRef:
    folder = settings.home / "work"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.txt").write_text(text)
    artifacts = settings.home / "artifacts"
    artifacts.mkdir(exist_ok=True)
    (artifacts / "notes.txt").write_text("seen")
    record = RunRecord("toy run", {"trees": 3}, {"quality": 0.5}, {"data_fingerprint": "abc"}, artifacts)
    return Registry(settings).register(NAME, folder, record, loader_module="whiteboard.fraud.model", requirements=[])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with two versions, the first of them champion."""
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    first = register(settings, "first")
    register(settings, "second")
    Registry(settings).set_alias(NAME, CHAMPION, first.version)
    return settings


@pytest.fixture
def settings(template: Settings) -> Settings:
    """The two versions, with no copies made yet."""
    shutil.rmtree(template.home / "models", ignore_errors=True)
    registry = Registry(template)
    registry.set_alias(NAME, CHAMPION, "1")
    registry.set_alias(NAME, CHALLENGER, "2")
    return template


def text_of(folder: Path) -> str:
    return (folder / "model.txt").read_text()


def test_a_fresh_home_has_no_champion_and_asking_creates_nothing(tmp_path: Path) -> None:
    registry = Registry(Settings(home=tmp_path / "fresh"))
    assert registry.champion(NAME) is None
    assert registry.last_good(NAME) is None
    assert not (tmp_path / "fresh").exists()


def test_versions_count_up_and_the_newest_is_challenger(settings: Settings) -> None:
    registry = Registry(settings)
    assert [ref.version for ref in registry.versions(NAME)] == ["1", "2"]
    challenger, champion = registry.challenger(NAME), registry.champion(NAME)
    assert challenger is not None and champion is not None
    assert (challenger.version, champion.version) == ("2", "1")
    assert registry.champion("nobody") is None
    assert registry.version(NAME, "77") is None


def test_a_version_tells_how_it_came_about(settings: Settings) -> None:
    registry = Registry(settings)
    ref = registry.version(NAME, "1")
    assert ref is not None
    assert ref.tags["data_fingerprint"] == "abc"
    assert registry.metrics(ref) == {"quality": 0.5}
    registry.tag(ref, {"gate.better": "passed: 0.9 against 0.8"})
    tagged = registry.version(NAME, "1")
    assert tagged is not None and tagged.tags["gate.better"] == "passed: 0.9 against 0.8"


def test_an_alias_moves_and_others_see_it_at_once(settings: Settings) -> None:
    service, pipeline = Registry(settings), Registry(settings)
    before = service.champion(NAME)
    pipeline.set_alias(NAME, CHAMPION, "2")
    after = service.champion(NAME)
    assert before is not None and after is not None
    assert (before.version, after.version) == ("1", "2")
    assert text_of(service.download(before)) == "first"
    assert text_of(service.download(after)) == "second"


def test_a_process_that_has_registered_nothing_downloads_from_the_registry_that_it_was_given(
    settings: Settings, tmp_path: Path
) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/default.db")
    registry = Registry(settings)
    ref = registry.champion(NAME)
    assert ref is not None
    assert text_of(registry.download(ref)) == "first"
    assert not (tmp_path / "default.db").exists()


def test_an_alias_can_be_taken_away(settings: Settings) -> None:
    registry = Registry(settings)
    registry.remove_alias(NAME, CHALLENGER)
    registry.remove_alias(NAME, CHALLENGER)
    assert registry.challenger(NAME) is None


def test_asking_for_the_champion_is_cheap_enough_to_do_each_second(settings: Settings) -> None:
    registry = Registry(settings)
    registry.champion(NAME)
    began = time.process_time()
    for _ in range(20):
        registry.champion(NAME)
    assert (time.process_time() - began) / 20 < 0.02


def test_mlflow_is_asked_again_only_when_its_database_has_changed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, registry, other = list[str](), Registry(settings), Registry(settings)
    database, client = settings.mlflow_dir / "mlflow.db", type(registry._client)
    ask = client.get_model_version_by_alias

    def counted(self: "MlflowClient", name: str, alias: str) -> "ModelVersion":
        asked.append(alias)
        return ask(self, name, alias)

    def versions() -> list[str]:
        found = registry.champion(NAME), registry.challenger(NAME)
        return [ref.version for ref in found if ref is not None]

    monkeypatch.setattr(client, "get_model_version_by_alias", counted)
    os.utime(database, (just_now := time.time() + 60, just_now))  # within one tick of its clock it may change again
    assert versions() == versions() == ["1", "2"]
    assert asked == [CHAMPION, CHALLENGER] * 2
    os.utime(database, (0, 0))
    assert versions() == versions() == ["1", "2"]
    assert asked == [CHAMPION, CHALLENGER] * 3
    other.set_alias(NAME, CHAMPION, "2")
    assert versions() == ["2", "2"]
    os.utime(database, (1, 1))
    assert versions() == versions() == ["2", "2"]
    assert asked == [CHAMPION, CHALLENGER] * 5


def test_a_damaged_copy_is_fetched_again(settings: Settings) -> None:
    registry = Registry(settings)
    ref = registry.champion(NAME)
    assert ref is not None
    folder = registry.download(ref)
    (folder / "model.txt").write_text("tampered")
    assert text_of(registry.download(ref)) == "first"
    (folder / MANIFEST).unlink()
    assert text_of(registry.download(ref)) == "first"


def test_files_that_are_not_those_registered_are_refused(settings: Settings) -> None:
    registry = Registry(settings)
    stored = next((settings.mlflow_dir / "artifacts").rglob("*/work/model.txt"))
    original = stored.read_text()
    ref = registry.version(NAME, "1" if original == "first" else "2")
    assert ref is not None
    try:
        stored.write_text("malicious")
        with pytest.raises(ModelError, match="not those that were registered"):
            registry.download(ref)
        assert not (settings.home / "models" / NAME / ref.version).exists()
    finally:
        stored.write_text(original)


def test_what_a_killed_download_left_is_no_copy(settings: Settings) -> None:
    registry = Registry(settings)
    ref = registry.champion(NAME)
    assert ref is not None
    half = settings.home / "models" / NAME / ref.version
    half.mkdir(parents=True)
    (half / "model.txt").write_text("fir")
    assert text_of(registry.download(ref)) == "first"


def test_several_processes_may_download_at_once(settings: Settings) -> None:
    ref = Registry(settings).champion(NAME)
    assert ref is not None
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(text_of(Registry(settings).download(ref)))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["first"] * 6
    assert [p.name for p in (settings.home / "models" / NAME).iterdir() if p.name.startswith(".download")] == []


def test_without_the_registry_the_last_good_copy_serves(settings: Settings) -> None:
    registry = Registry(settings)
    ref = registry.champion(NAME)
    assert ref is not None
    registry.download(ref)
    away = settings.mlflow_dir.with_name("away")
    settings.mlflow_dir.rename(away)
    try:
        started_later = Registry(settings)
        with pytest.raises(RegistryUnavailableError):
            started_later.champion(NAME)
        last = started_later.last_good(NAME)
        assert last is not None and last.version == "1"
        assert text_of(started_later.download(last)) == "first"
        assert started_later.last_good(NAME, CHALLENGER) is None  # it was never downloaded
        assert not settings.mlflow_dir.exists()
    finally:
        away.rename(settings.mlflow_dir)
    back = Registry(settings).champion(NAME)
    assert back is not None and back.version == "1"


def test_a_damaged_copy_is_not_the_last_good_one(settings: Settings) -> None:
    registry = Registry(settings)
    ref = registry.champion(NAME)
    assert ref is not None
    (registry.download(ref) / "model.txt").write_text("tampered")
    assert registry.last_good(NAME) is None


def test_a_server_that_is_gone_is_said_to_be_gone_within_seconds(tmp_path: Path) -> None:
    registry = Registry(Settings(home=tmp_path, mlflow_tracking_uri="http://127.0.0.1:9"))  # the discard port
    began = time.monotonic()
    with pytest.raises(RegistryUnavailableError, match="does not answer"):
        registry.champion(NAME)
    assert time.monotonic() - began < 60
