"""Lake → point-in-time set through Feast → model → registry → gates → batch scores, all for real but without Kafka."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from pipelines.fraud.batch_score import score_day
from pipelines.fraud.dataset import MAX_WEIGHT, Dataset, build
from pipelines.fraud.ensemble import fit_trees
from pipelines.fraud.evaluate import average_precision
from pipelines.fraud.gates import Limits
from pipelines.fraud.package import holdout
from pipelines.fraud.promote import promote
from pipelines.fraud.train import Registered, TrainConfig, split, train
from tests.integration.fraud.history import into_lake
from whiteboard.distributed import workers
from whiteboard.errors import ModelError, NotEnoughDataError
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.events import DECISIONS, LABELS, TRANSACTIONS, Decision, Label, Transaction
from whiteboard.fraud.features import FEATURES
from whiteboard.fraud.model import FraudModel
from whiteboard.fraud.world import WorldConfig, simulate
from whiteboard.judgements import last_parity
from whiteboard.lake import Lake
from whiteboard.promotion import Verdict
from whiteboard.registry import Registry
from whiteboard.settings import Settings

if TYPE_CHECKING:
    from distributed import Client

START, DAYS = date(2026, 1, 5), 50
LIVE = pd.Timestamp("2026-02-14", tz="UTC")  # after 40 days
AS_OF = datetime(2026, 1, 5, tzinfo=UTC) + timedelta(days=DAYS)
CONFIG = TrainConfig(tuning_s=0, rounds=150, slice_frauds=30)
EXPLORED = 0.1


def decide(transactions: pd.DataFrame) -> pd.DataFrame:
    """Decisions on the live days: what is large is declined, but for a known share that is reviewed."""
    live = transactions[transactions["event_timestamp"] >= LIVE]
    large = live["amount"] > 150
    waived = large & (np.random.default_rng(0).random(len(live)) < EXPLORED)
    return live.assign(
        decision=np.select([waived, large], ["review", "decline"], "approve"),
        propensity=np.select([waived, large], [EXPLORED, 1 - EXPLORED], 1.0),
        fraud_probability=0.5,
        model_version="0",
        degraded=False,
        latency_ms=1.0,
        watermarks="{}",
    )


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with a lake of 50 days, the last ten decided live; labels come after two days, of reviews in an hour."""
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    FeatureStore.apply(settings)
    config = WorldConfig(customers=200, terminals=400, start=START, days=DAYS, seed=5, label_delay_days=2.0)
    made = simulate(config).transactions
    decisions = decide(made)
    declined, reviewed = (
        made["transaction_id"].isin(decisions.loc[decisions["decision"] == action, "transaction_id"])
        for action in ("decline", "review")
    )
    known = made["label_timestamp"].mask(reviewed, made["event_timestamp"] + pd.Timedelta(hours=1))
    labels = made.assign(
        transaction_timestamp=made["event_timestamp"],
        event_timestamp=known,
        created_timestamp=known,
        source="history",
    )
    lake = Lake(settings.lake_dir)
    into_lake(lake, TRANSACTIONS, Transaction, made)
    into_lake(lake, LABELS, Label, labels[~declined & (labels["created_timestamp"] < AS_OF)])
    into_lake(lake, DECISIONS, Decision, decisions)
    return settings


@pytest.fixture(scope="module")
def dataset(settings: Settings) -> Dataset:
    return build(settings, AS_OF)


@pytest.fixture(scope="module")
def first(settings: Settings, dataset: Dataset) -> Registered:
    return train(settings, dataset, CONFIG)


@pytest.fixture(scope="module")
def champion(settings: Settings, first: Registered) -> Verdict:
    return promote(settings, first.version, limits=Limits(latency_ms=50))


def worse(dataset: Dataset) -> Dataset:
    """The same payments with labels dealt out blindly up to the test slice: nothing can be learnt from them."""
    test_begins = split(dataset, CONFIG).test.frame["event_timestamp"].min()
    frame = dataset.frame.copy()
    old = (frame["event_timestamp"] < test_begins).to_numpy()
    frame.loc[old, "is_fraud"] = np.random.default_rng(1).permutation(frame.loc[old, "is_fraud"].to_numpy())
    return replace(dataset, frame=frame)


def test_declines_without_a_label_are_left_out_and_waived_ones_stand_for_them(dataset: Dataset) -> None:
    live = dataset.frame[dataset.frame["event_timestamp"] >= LIVE]
    assert dataset.counts["declined_without_label"] > 0
    assert set(live.loc[live["amount"] > 150, "weight"]) == {1 / EXPLORED}
    assert set(live.loc[live["amount"] <= 150, "weight"]) == {1.0}
    assert dataset.weight.max() <= MAX_WEIGHT


def test_days_whose_labels_are_not_in_yet_are_left_out(dataset: Dataset) -> None:
    newest = dataset.frame["event_timestamp"].max()
    assert newest.date() == START + timedelta(days=DAYS - 3)  # labels come after two days
    assert dataset.counts["labelled_too_new"] > 0  # those of the reviewed payments
    assert dataset.counts["labelled"] == len(dataset) + dataset.counts["labelled_too_new"]


def test_an_earlier_as_of_knows_less_and_differs_in_nothing_else(settings: Settings, dataset: Dataset) -> None:
    earlier = build(settings, AS_OF - timedelta(days=10))
    assert len(earlier) < len(dataset)
    same = dataset.frame[dataset.frame["transaction_id"].isin(earlier.frame["transaction_id"])]
    pd.testing.assert_frame_equal(earlier.frame, same.reset_index(drop=True))
    assert earlier.fingerprint != dataset.fingerprint


def test_building_again_gives_the_same_fingerprint(settings: Settings, dataset: Dataset) -> None:
    assert build(settings, AS_OF).fingerprint == dataset.fingerprint


def test_slices_of_another_length_give_the_same_set(
    settings: Settings, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whiteboard.slices.MOST_DAYS", 4)
    assert build(settings, AS_OF).fingerprint == dataset.fingerprint


@pytest.mark.usefixtures("spark_session")
def test_spark_builds_the_same_set_to_the_last_bit(settings: Settings) -> None:
    """As of the fifteenth day, for Spark is slow on one core."""
    early = AS_OF - timedelta(days=DAYS - 15)
    by_spark = build(settings.model_copy(update={"offline_executor": "spark"}), early)
    assert len(by_spark) > 1000
    assert by_spark.fingerprint == build(settings, early).fingerprint


@pytest.mark.usefixtures("dask")
def test_two_workers_fit_trees_as_good_as_those_of_one_process(dataset: Dataset) -> None:
    """On the later slice every seed's average precision differs by less than one process's differ between seeds."""
    slices = split(dataset, CONFIG)

    def judged(seed: int, client: "Client | None") -> tuple[float, int]:
        booster = fit_trees(slices.fit, rounds=60, stop=slices.stop, seed=seed, client=client)
        scores = np.asarray(booster.predict(slices.test.matrix(), raw_score=True, num_threads=1))
        return average_precision(slices.test, scores), booster.best_iteration

    with workers("local:2") as client:
        alone, together = (np.array([judged(seed, by) for seed in range(3)]) for by in (None, client))
    noise = np.ptp(alone[:, 0])
    assert 0 < noise < 0.1
    assert np.abs(alone[:, 0] - together[:, 0]).max() < noise / 2
    assert (together[:, 1] < 60).any(), "some fit was stopped early, as those of one process are"


@pytest.mark.usefixtures("dask")
def test_a_model_fitted_by_workers_is_registered_like_any_other(settings: Settings, dataset: Dataset) -> None:
    made = train(settings, dataset, replace(CONFIG, rounds=30, distributed="local:2"))
    model = FraudModel.load(Registry(settings).download(made.ref))
    assert model.features == FEATURES
    risk = model.predict(made.trained.slices.test.matrix())
    assert "127.0.0.1" not in model.trees, "where its workers were is no part of a model"
    assert average_precision(made.trained.slices.test, risk) > 10 * made.trained.slices.test.is_fraud.mean()


def test_before_any_label_there_is_nothing_to_learn(settings: Settings) -> None:
    with pytest.raises(NotEnoughDataError, match="no labelled payment"):
        build(settings, datetime(2026, 1, 6, tzinfo=UTC))


def test_too_few_frauds_are_refused(settings: Settings, dataset: Dataset) -> None:
    short = dataset.slice(None, pd.Timestamp(START, tz="UTC") + pd.Timedelta(days=4))
    with pytest.raises(NotEnoughDataError, match="too few"):
        train(settings, short, CONFIG)


def test_a_run_leaves_everything_that_explains_the_version(
    settings: Settings, dataset: Dataset, first: Registered
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(settings.tracking_uri)
    run = client.get_run(first.ref.run_id)
    assert {"trees", "members", "payments", "declined_without_label"} <= run.data.params.keys()
    for metric in ("average_precision", "roc_auc", "card_precision_at_100", "cost_per_1000", "calibration_error"):
        assert {
            metric,
            *(f"{metric}_{part}" for part in ("low", "high", "floor", "ceiling")),
        } <= run.data.metrics.keys()
    assert run.data.tags["data_fingerprint"] == dataset.fingerprint
    logged = {a.path for a in client.list_artifacts(first.ref.run_id)}
    assert {"features.json", "ablation.json", "slices.json", "reference.parquet", "plots"} <= logged
    plots = {
        a.path.removeprefix("plots/").removesuffix(".png") for a in client.list_artifacts(first.ref.run_id, "plots")
    }
    assert plots == {"precision_recall", "calibration", "cost_against_threshold", "feature_importance", "shap_summary"}


def test_the_registered_files_are_the_model_that_was_trained(settings: Settings, first: Registered) -> None:
    import mlflow.pyfunc

    folder = Registry(settings).download(first.ref)
    rows = holdout(folder)
    expected = first.trained.model.predict(rows.matrix())
    assert np.array_equal(FraudModel.load(folder).predict(rows.matrix()), expected)
    mlflow.set_tracking_uri(settings.tracking_uri)
    assert np.array_equal(mlflow.pyfunc.load_model(f"models:/fraud/{first.version}").predict(rows.frame), expected)
    reference = pd.read_parquet(folder / "reference.parquet")
    assert {*FEATURES, "fraud_probability", "event_timestamp"} <= set(reference.columns)


def test_feast_knows_what_the_version_reads(settings: Settings, first: Registered) -> None:
    service = FeatureStore(settings).feast.get_feature_service(f"fraud_v{first.version}")
    assert {f.name for view in service.feature_view_projections for f in view.features} == set(FEATURES)


def test_the_first_good_version_becomes_champion_with_every_verdict_recorded(
    settings: Settings, first: Registered, champion: Verdict
) -> None:
    assert champion.promoted, champion.reason
    registry = Registry(settings)
    serving = registry.champion("fraud")
    assert serving is not None and serving.version == first.version
    assert registry.challenger("fraud") is None
    assert serving.tags["gates"] == "promoted"
    names = {"better", "calibrated", "cheaper", "parity", "latency", "segments"}
    assert names == {gate.name for gate in champion.gates}
    assert all(serving.tags[f"gate.{name}"].startswith("passed: ") for name in names)


def test_the_champion_is_not_promoted_twice(settings: Settings, first: Registered, champion: Verdict) -> None:
    with pytest.raises(ModelError, match="champion already"):
        promote(settings, first.version)


def test_a_worse_model_is_refused_with_a_written_reason(
    settings: Settings, dataset: Dataset, first: Registered, champion: Verdict
) -> None:
    challenger = train(settings, worse(dataset), replace(CONFIG, rounds=30))
    verdict = promote(settings, limits=Limits(latency_ms=50))
    assert verdict.version == challenger.version
    assert not verdict.promoted
    assert "better" in {gate.name for gate in verdict.gates if not gate.passed}
    assert f"of version {first.version}" in verdict.reason
    registry = Registry(settings)
    serving, refused = registry.champion("fraud"), registry.version("fraud", challenger.version)
    assert serving is not None and serving.version == first.version
    assert refused is not None and refused.tags["gates"] == "refused"
    assert refused.tags["gates.reason"] == verdict.reason
    assert refused.tags["gate.better"].startswith("failed: average precision")
    assert registry.challenger("fraud") is None


def test_a_broken_parity_stops_even_a_good_model(settings: Settings, dataset: Dataset, champion: Verdict) -> None:
    settings_of_monitor = settings.monitor_dir / "fraud"
    settings_of_monitor.mkdir(parents=True)
    windows = settings_of_monitor / "windows.jsonl"
    windows.write_text(
        '{"parity": {"compared": 10, "mismatched": 2}}\n{"parity": {"compared": 0, "mismatched": 0}}\n{"da'
    )
    assert last_parity(settings, "fraud") == 2
    train(settings, dataset, replace(CONFIG, seed=1, rounds=100))
    verdict = promote(settings, limits=Limits(latency_ms=50, better=0.0))
    assert [gate.name for gate in verdict.gates if not gate.passed] == ["parity"]


def test_a_day_scored_again_gives_the_same_file(settings: Settings, champion: Verdict) -> None:
    day = START + timedelta(days=45)
    path = score_day(settings, day)
    before = path.read_bytes()
    assert score_day(settings, day).read_bytes() == before
    scores = pd.read_parquet(path)
    assert path.relative_to(settings.home).parts == (
        "lake",
        "fraud.scores",
        f"date={day}",
        f"version-{champion.version}.parquet",
    )
    assert set(scores["event_timestamp"].dt.date) == {day}
    assert scores["fraud_probability"].between(0, 1).all()
    assert scores["transaction_id"].is_unique


def test_batch_scores_are_those_of_the_training_features(
    settings: Settings, dataset: Dataset, champion: Verdict
) -> None:
    day = START + timedelta(days=30)
    scores = pd.read_parquet(score_day(settings, day)).set_index("transaction_id")["fraud_probability"]
    folder = Registry(settings).download(Registry(settings).champion("fraud"))  # type: ignore[arg-type]
    rows = dataset.where((dataset.frame["event_timestamp"].dt.date == day).to_numpy())
    expected = pd.Series(FraudModel.load(folder).predict(rows.matrix()), index=rows.frame["transaction_id"])
    assert scores.loc[expected.index].tolist() == expected.tolist()


def test_a_day_without_payments_is_said_to_be_empty(settings: Settings, champion: Verdict) -> None:
    with pytest.raises(NotEnoughDataError, match="no payments"):
        score_day(settings, date(2020, 1, 1))
