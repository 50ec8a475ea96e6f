"""Following aliases: what is new is loaded once, what fails changes nothing, and no registry is no disaster."""

from dataclasses import replace
from pathlib import Path

import pytest

from whiteboard.errors import ModelError, RegistryUnavailableError
from whiteboard.hotswap import HotSwap
from whiteboard.registry import CHALLENGER, CHAMPION, VersionRef


def ref(version: str) -> VersionRef:
    return VersionRef("toy", version, "run", "source", "digest")


class Registry:
    """Aliases in a dict; a version's folder is its number."""

    def __init__(self) -> None:
        self.aliases: dict[str, str] = {}
        self.up = True
        self.copies: dict[str, str] = {}
        self.downloads: list[str] = []

    def by_alias(self, name: str, alias: str) -> VersionRef | None:
        if not self.up:
            raise RegistryUnavailableError("the registry does not answer")
        version = self.aliases.get(alias)
        return replace(ref(version), alias=alias) if version else None

    def last_good(self, name: str, alias: str) -> VersionRef | None:
        version = self.copies.get(alias)
        return replace(ref(version), alias=alias) if version else None

    def download(self, ref: VersionRef) -> Path:
        self.downloads.append(ref.version)
        assert ref.alias
        self.copies[ref.alias] = ref.version
        return Path(ref.version)


class Loader:
    """Makes the text "model N" of folder N, unless N is broken."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.broken: set[str] = set()

    def __call__(self, directory: Path) -> str:
        self.loaded.append(directory.name)
        if directory.name in self.broken:
            raise ModelError(f"version {directory.name} cannot be read")
        return f"model {directory.name}"


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def load() -> Loader:
    return Loader()


@pytest.fixture
def models(registry: Registry, load: Loader) -> HotSwap[str]:
    return HotSwap(registry, "toy", load)


def serving(models: HotSwap[str]) -> tuple[str | None, str | None]:
    champion, challenger = models.champion, models.challenger
    return champion and champion.version, challenger and challenger.version  # type: ignore[return-value]


def test_without_a_champion_nothing_serves(models: HotSwap[str]) -> None:
    models.refresh()
    assert serving(models) == (None, None)


def test_a_version_is_loaded_once_however_often_it_is_asked_for(
    models: HotSwap[str], registry: Registry, load: Loader
) -> None:
    registry.aliases = {CHAMPION: "1"}
    for _ in range(5):
        models.refresh()
    assert serving(models) == ("1", None)
    assert models.champion is not None and models.champion.model == "model 1"
    assert load.loaded == registry.downloads == ["1"]


def test_a_promoted_challenger_is_not_loaded_again(models: HotSwap[str], registry: Registry, load: Loader) -> None:
    registry.aliases = {CHAMPION: "1", CHALLENGER: "2"}
    models.refresh()
    registry.aliases = {CHAMPION: "2"}
    models.refresh()
    assert serving(models) == ("2", None)
    assert load.loaded == ["1", "2"]
    assert registry.copies[CHAMPION] == "2"  # for a start without the registry


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving(
    models: HotSwap[str], registry: Registry, load: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    registry.aliases = {CHAMPION: "1", CHALLENGER: "3"}
    load.broken = {"2"}
    models.refresh()
    registry.aliases[CHAMPION] = "2"
    with caplog.at_level("ERROR", "whiteboard"):
        for _ in range(5):
            models.refresh()
    assert serving(models) == ("1", "3")
    assert len(caplog.records) == 1  # not one line a second
    registry.aliases[CHAMPION] = "4"
    models.refresh()
    assert serving(models) == ("4", "3")


def test_a_broken_champion_does_not_keep_the_challenger_out(
    models: HotSwap[str], registry: Registry, load: Loader
) -> None:
    registry.aliases = {CHAMPION: "1", CHALLENGER: "2"}
    load.broken = {"1"}
    models.refresh()
    assert serving(models) == (None, "2")


def test_what_is_loaded_goes_on_serving_while_the_registry_is_gone(models: HotSwap[str], registry: Registry) -> None:
    registry.aliases = {CHAMPION: "1"}
    models.refresh()
    registry.up, registry.copies = False, {CHAMPION: "0"}  # another process of this home was started with less
    models.refresh()
    assert serving(models) == ("1", None)
    registry.up, registry.aliases = True, {CHAMPION: "2"}
    models.refresh()
    assert serving(models) == ("2", None)


def test_a_start_without_the_registry_takes_the_last_good_copy(models: HotSwap[str], registry: Registry) -> None:
    registry.up, registry.copies = False, {CHAMPION: "7"}
    models.refresh()
    assert serving(models) == ("7", None)


def test_an_alias_that_was_taken_away_serves_no_more(models: HotSwap[str], registry: Registry) -> None:
    registry.aliases = {CHAMPION: "1", CHALLENGER: "2"}
    models.refresh()
    registry.aliases = {CHAMPION: "1"}
    models.refresh()
    assert serving(models) == ("1", None)
