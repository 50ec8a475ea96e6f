"""Training and scoring as of a day: repeated, cut off, out of order, and always the same registry and lake."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from pipelines.fraud.as_of import STEPS
from pipelines.fraud.batch_score import score_day
from pipelines.fraud.dataset import Dataset
from pipelines.fraud.gates import Limits
from pipelines.fraud.promote import promote
from pipelines.fraud.train import TrainConfig
from tests.integration.fraud.history import lived_in
from whiteboard.errors import ModelError, NotYetError
from whiteboard.fraud.cli import app
from whiteboard.fraud.world import WorldConfig
from whiteboard.promotion import Verdict, on_duty
from whiteboard.registry import CHALLENGER, CHAMPION, Registry
from whiteboard.settings import Settings

START, DAYS = date(2026, 1, 5), 48
CONFIG = TrainConfig(tuning_s=0, rounds=60, slice_frauds=15)
LENIENT = Limits(better=0.0, calibration_error=1.0, cost=100.0, latency_ms=50.0, segment_drop=1.0)
LENIENT_STEPS = replace(STEPS, promote=lambda settings, version: promote(settings, version, limits=LENIENT))
FIVE = [START + timedelta(days=DAYS - 6 + n) for n in range(5)]


def retrain(settings: Settings, day: date) -> Verdict:
    STEPS.dataset(settings, day)
    STEPS.fit(settings, day, CONFIG)
    STEPS.evaluate(settings, day)
    return LENIENT_STEPS.judge(settings, day)


def backfill(settings: Settings) -> None:
    for day in FIVE:
        retrain(settings, day)
        score_day(settings, day)


def state(settings: Settings) -> dict[str, Any]:
    """Everything that a repetition must not change."""
    registry = Registry(settings)
    versions = registry.versions("fraud")
    aliases = {alias: registry.by_alias("fraud", alias) for alias in (CHAMPION, CHALLENGER)}
    return {
        "tags": {ref.version: ref.tags for ref in versions},
        "metrics": {ref.version: registry.metrics(ref) for ref in versions},
        "aliases": {alias: ref and ref.version for alias, ref in aliases.items()},
        "lake": {
            str(path.relative_to(settings.home)): sha256(path.read_bytes()).hexdigest()
            for path in sorted(settings.lake_dir.rglob("*"))
            if path.is_file()
        },
    }


@pytest.fixture(scope="module", autouse=True)
def fewer_trees() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.fraud.train.LEAST_TREES", 20)
        yield


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home whose lake holds seven weeks, of which five days have been backfilled."""
    world = WorldConfig(customers=200, terminals=400, start=START, days=DAYS, seed=5, label_delay_days=2.0)
    settings = lived_in(tmp_path_factory.mktemp("home"), world)
    backfill(settings)
    return settings


def test_a_backfill_of_five_days_done_twice_leaves_the_same_registry_and_lake(settings: Settings) -> None:
    before = state(settings)
    backfill(settings)
    assert state(settings) == before
    assert sorted(before["tags"]) == ["1", "2", "3", "4", "5"]
    assert before["aliases"] == {CHAMPION: "5", CHALLENGER: None}
    assert len([path for path in before["lake"] if path.startswith("lake/fraud.scores/")]) == len(FIVE)


def test_each_version_knows_what_was_known_when_its_day_ended_and_nothing_later(settings: Settings) -> None:
    known = {ref.tags["as_of"] for ref in Registry(settings).versions("fraud")}
    assert known == {f"{day}T23:59:59.999999+00:00" for day in FIVE}
    for day in FIVE:
        rows = Dataset.load(STEPS.folder(settings, day)).frame
        assert rows["created_timestamp"].max() < pd.Timestamp(day + timedelta(days=1), tz="UTC")


def test_a_day_is_scored_by_the_version_that_was_champion_when_it_began(settings: Settings) -> None:
    registry = Registry(settings)
    duty = [on_duty(registry, "fraud", day).version for day in FIVE]
    assert duty == ["1", "1", "2", "3", "4"]  # the first day lies before all of them
    scores = pd.read_parquet(settings.lake_dir / "fraud.scores" / f"date={FIVE[3]}" / "version-3.parquet")
    assert set(scores["model_version"]) == {"3"}


def test_a_rollback_by_hand_stands_whatever_is_repeated(settings: Settings) -> None:
    registry = Registry(settings)
    registry.set_alias("fraud", CHAMPION, "2")
    try:
        assert retrain(settings, FIVE[-1]).promoted  # as it was written down then
        champion = registry.champion("fraud")
        assert champion is not None and champion.version == "2"
        assert on_duty(registry, "fraud", FIVE[-1]).version == "2"
    finally:
        registry.set_alias("fraud", CHAMPION, "5")


@pytest.fixture(scope="module")
def older(settings: Settings) -> date:
    """A day before all that were backfilled, retrained after them."""
    day = FIVE[0] - timedelta(days=1)
    retrain(settings, day)
    return day


def test_an_older_day_never_displaces_a_champion_that_knows_more(settings: Settings, older: date) -> None:
    registry = Registry(settings)
    champion, challenger = registry.champion("fraud"), registry.challenger("fraud")
    assert champion is not None and champion.version == "5"
    assert challenger is None
    verdict = STEPS.judge(settings, older)
    assert [gate.name for gate in verdict.gates if not gate.passed] == ["recent"]
    assert f"until {older} 23:59, version 5 until {FIVE[-1]} 23:59" in verdict.reason


def test_a_refusal_is_said_by_the_exit_code_that_airflow_shows_as_skipped(
    settings: Settings, older: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHITEBOARD_HOME", str(settings.home))
    done = CliRunner().invoke(app, ["promote", "--as-of", str(older)])
    assert done.exit_code == 99
    assert "refused" in done.stdout


class Killed(BaseException):
    """Ends a step where a kill would: nobody catches it."""


def killed_after(function: Callable[..., Any], when: Callable[..., bool]) -> Callable[..., Any]:
    def once(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        if when(*arguments, **options):
            raise Killed
        return result

    return once


def test_cut_off_anywhere_and_run_again_a_retrain_ends_as_if_undisturbed(
    settings: Settings, older: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = FIVE[-1] + timedelta(days=1)
    cuts: list[tuple[object, str, Callable[..., bool]]] = [
        (Dataset, "save", lambda *_: True),
        (Path, "rename", lambda path, _: path.name == ".candidate"),
        (MlflowClient, "create_model_version", lambda *_, **__: True),
        (Registry, "set_alias", lambda _, __, alias, ___: alias == CHALLENGER),
        (Registry, "set_alias", lambda _, __, alias, ___: alias == CHAMPION),
        (Registry, "remove_alias", lambda *_: True),
    ]
    cut_off = 0
    for owner, name, when in cuts:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killed_after(getattr(owner, name), when))
            try:
                retrain(settings, day)
            except Killed:
                cut_off += 1
    assert cut_off == len(cuts)
    verdict = retrain(settings, day)
    after = state(settings)
    assert verdict.promoted
    assert after["aliases"] == {CHAMPION: verdict.version, CHALLENGER: None}
    assert [tags["as_of"][:10] for tags in after["tags"].values()].count(str(day)) == 1
    assert after["tags"][verdict.version]["gates"] == "promoted"
    assert retrain(settings, day).version == verdict.version
    assert state(settings) == after


def test_a_day_that_is_not_over_is_refused(settings: Settings) -> None:
    with pytest.raises(NotYetError, match="is not over"):
        STEPS.dataset(settings, datetime.now(UTC).date())


def test_a_step_before_its_time_names_the_one_to_run_first(settings: Settings) -> None:
    day = START
    with pytest.raises(ModelError, match="no data set"):
        STEPS.fit(settings, day, CONFIG)
    with pytest.raises(ModelError, match=f"fraud fit --as-of {day}"):
        STEPS.evaluate(settings, day)
    with pytest.raises(ModelError, match=f"fraud fit --as-of {day}"):
        STEPS.judge(settings, day)
