"""Rollback on a real registry: who served before, whoever moved the alias; and a rollback that is cut off anywhere."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from whiteboard.errors import ModelError
from whiteboard.promotion import Gate, Verdict, offer, promote
from whiteboard.registry import CHAMPION, Registry, RunRecord, VersionRef
from whiteboard.rollback import BEFORE, CERTAIN, ROLLED_BACK, Contest, Rollback, Succession, roll_back
from whiteboard.settings import Settings

DAY = date(2026, 3, 4)
LOST = Contest("average precision", 0.12, 0.83, 1.0, "1,203 labelled payments with 37 frauds")
SYSTEM = "fraud"


@pytest.fixture(scope="module")
def registry_home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A registry whose versions each test adds to."""
    settings = Settings(home=tmp_path_factory.mktemp("registry"))
    Registry(settings).prepare()
    return settings


@pytest.fixture
def registry(registry_home: Settings, tmp_path: Path) -> Iterator[Registry]:
    """The registry, with two fresh versions, of which the older one is champion."""
    registry = Registry(registry_home)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.txt").write_text("a model")
    for _ in range(2):
        registry.register(
            SYSTEM, tmp_path / "model", RunRecord("run", {}, {}), loader_module="json", requirements=[], alias=None
        )
    registry.set_alias(SYSTEM, CHAMPION, newest(registry)[0].version)
    yield registry
    registry.remove_alias(SYSTEM, CHAMPION)


def newest(registry: Registry) -> tuple[VersionRef, VersionRef]:
    older, newer = registry.versions(SYSTEM)[-2:]
    return older, newer


def judged(registry: Registry, contest: Contest | None = LOST) -> Rollback | None:
    """What comes of judging the newest version."""
    return roll_back(registry, SYSTEM, newest(registry)[1].version, DAY, lambda *_: contest)


def serving(registry: Registry) -> str:
    champion = registry.champion(SYSTEM)
    assert champion is not None
    return champion.version


def test_champion_knows_its_predecessor_whoever_moved_the_alias(registry: Registry, tmp_path: Path) -> None:
    older, newer = newest(registry)
    Succession(registry, SYSTEM, tmp_path / "champion.json").look()
    registry.set_alias(SYSTEM, CHAMPION, newer.version)
    Succession(registry, SYSTEM, tmp_path / "champion.json").look()  # another life of the monitor
    assert newest(registry)[1].tags[BEFORE] == older.version
    assert BEFORE not in newest(registry)[0].tags


def test_promotion_notes_the_predecessor_before_the_alias_moves(registry_home: Settings, registry: Registry) -> None:
    older, newer = newest(registry)
    promote(registry_home, SYSTEM, lambda *_: [Gate("better", True, "it is")], newer.version)
    assert serving(registry) == newer.version
    assert newest(registry)[1].tags[BEFORE] == older.version


def test_loser_goes_and_its_predecessor_serves_again(registry: Registry) -> None:
    older, newer = newest(registry)
    registry.tag(newer, {BEFORE: older.version})
    registry.set_alias(SYSTEM, CHAMPION, newer.version)
    done = judged(registry)
    assert done is not None and (done.version, done.to) == (newer.version, older.version)
    assert serving(registry) == older.version
    assert newest(registry)[1].tags[ROLLED_BACK] == f"{DAY}: {done.message.partition(': ')[2]}"
    assert "0.120 against 0.830" in done.message


def test_after_a_rollback_the_bad_version_is_nobodys_predecessor(registry: Registry, tmp_path: Path) -> None:
    older, newer = newest(registry)
    succession = Succession(registry, SYSTEM, tmp_path / "champion.json")
    registry.tag(newer, {BEFORE: older.version})
    registry.set_alias(SYSTEM, CHAMPION, newer.version)
    succession.look()
    judged(registry)
    succession.look()
    assert BEFORE not in newest(registry)[0].tags


@pytest.mark.parametrize(
    ("before", "contest"),
    [
        (None, LOST),
        ("999", LOST),
        ("older", None),
        ("older", Contest("average precision", 0.5, 0.52, CERTAIN - 0.01, "")),
    ],
    ids=["nobody knows who served before", "the version before is gone", "nothing to judge by", "it may be noise"],
)
def test_nothing_happens_where(registry: Registry, before: str | None, contest: Contest | None) -> None:
    older, newer = newest(registry)
    if before is not None:
        registry.tag(newer, {BEFORE: older.version if before == "older" else before})
    registry.set_alias(SYSTEM, CHAMPION, newer.version)
    assert judged(registry, contest) is None
    assert serving(registry) == newer.version
    assert ROLLED_BACK not in newest(registry)[1].tags


def test_version_that_serves_no_more_is_left_alone(registry: Registry) -> None:
    older, newer = newest(registry)
    registry.tag(newer, {BEFORE: older.version})
    assert judged(registry) is None
    assert ROLLED_BACK not in newest(registry)[1].tags


@pytest.mark.parametrize("cut_off", ["before the alias moved", "before it was told"])
def test_rollback_that_was_cut_off_is_completed_and_told_when_the_day_is_judged_again(
    registry: Registry, cut_off: str
) -> None:
    older, newer = newest(registry)
    registry.tag(newer, {BEFORE: older.version, ROLLED_BACK: f"{DAY}: it was worse"})
    if cut_off == "before the alias moved":
        registry.set_alias(SYSTEM, CHAMPION, newer.version)
    done = judged(registry, contest=None)
    assert done is not None and done.message.endswith("it was worse")
    assert serving(registry) == older.version


def test_rolled_back_version_is_neither_offered_nor_promoted_again(registry_home: Settings, registry: Registry) -> None:
    older, newer = newest(registry)
    registry.tag(newer, {ROLLED_BACK: f"{DAY}: it was worse"})
    offer(registry, newest(registry)[1])
    assert registry.challenger(SYSTEM) is None
    verdict: Verdict = promote(registry_home, SYSTEM, lambda *_: [Gate("better", True, "it is")], newer.version)
    assert not verdict.promoted
    assert verdict.reason == f"live: was rolled back on {DAY}: it was worse"
    assert serving(registry) == older.version
    with pytest.raises(ModelError, match="champion already"):
        promote(registry_home, SYSTEM, lambda *_: [], older.version)
