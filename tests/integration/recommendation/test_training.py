"""Lake → point-in-time set through Feast → model → registry → gates → batch, all for real but without Kafka."""

import hashlib
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from pipelines.recommendation.batch_score import LENGTH, score_day
from pipelines.recommendation.dataset import Dataset, build
from pipelines.recommendation.evaluate import Requests
from pipelines.recommendation.gates import Contestant, Limits, all_gates
from pipelines.recommendation.package import holdout
from pipelines.recommendation.promote import promote
from pipelines.recommendation.ranker import fit_trees
from pipelines.recommendation.train import Registered, TrainConfig, split, train
from tests.integration.recommendation.history import lived_in
from tests.itemrows import item_values
from whiteboard.distributed import workers
from whiteboard.errors import ModelError, NotEnoughDataError
from whiteboard.featurestore import FeatureStore
from whiteboard.manifest import intact
from whiteboard.promotion import Verdict
from whiteboard.recommendation.candidates import RetrievalConfig
from whiteboard.recommendation.events import INTERACTIONS, Interaction
from whiteboard.recommendation.features import FEATURES, ITEM_FOLD, USER_FOLD, user_values
from whiteboard.recommendation.ingest import interaction_of
from whiteboard.recommendation.model import RecommendationModel
from whiteboard.recommendation.population import WorldConfig
from whiteboard.recommendation.position_bias import PositionBias
from whiteboard.recommendation.routes import BATCH_VIEW
from whiteboard.recommendation.world import World
from whiteboard.registry import CHAMPION, Registry
from whiteboard.settings import Settings
from whiteboard.windows import micros

if TYPE_CHECKING:
    from distributed import Client

START, DAYS = date(2026, 1, 5), 16
WORLD = WorldConfig(users=400, items=200, start=START, days=DAYS + 4, seed=4)
RETRIEVAL = RetrievalConfig(factors=16, dimensions=32)
CONFIG = TrainConfig(rounds=120, slice_clicks=100, retrieval=RETRIEVAL)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, World]:
    return lived_in(tmp_path_factory.mktemp("home"), WORLD, DAYS)


@pytest.fixture(scope="module")
def dataset(lived: tuple[Settings, World]) -> Dataset:
    return build(lived[0], config=RETRIEVAL)


@pytest.fixture(scope="module")
def registered(lived: tuple[Settings, World], dataset: Dataset) -> Registered:
    return train(lived[0], dataset, CONFIG)


@pytest.fixture(scope="module")
def promoted(lived: tuple[Settings, World], registered: Registered) -> Verdict:
    return promote(lived[0], registered.version)


def events_before(world: World, at: pd.Timestamp) -> list[tuple[int, Interaction]]:
    earlier = world.interactions[world.interactions["event_timestamp"] < at]
    return [
        (n, interaction_of({str(k): v for k, v in row.items()})) for n, row in enumerate(earlier.to_dict("records"))
    ]


def test_every_item_shown_is_there_with_what_came_of_it(lived: tuple[Settings, World], dataset: Dataset) -> None:
    world, frame = lived[1], dataset.frame
    since = frame["event_timestamp"].min()
    shown = world.shown[world.shown["event_timestamp"].between(since, frame["event_timestamp"].max())]
    assert len(frame) == len(shown) and frame["shown_id"].is_unique
    done = world.interactions[world.interactions["request_id"].isin(frame["request_id"])]
    assert (frame["grade"] > 0).sum() == (done["event_type"] == "click").sum()
    assert (frame["grade"] == 2).sum() == (done["event_type"] == "purchase").sum()
    assert frame["seen"].sum() == (done["event_type"] == "view").sum()


@pytest.mark.usefixtures("spark_session")
def test_spark_builds_the_same_set_to_the_last_bit(lived: tuple[Settings, World]) -> None:
    """As of an early day, for Spark is slow on one core."""
    early = pd.Timestamp(START + timedelta(days=DAYS // 2), tz="UTC").to_pydatetime()
    by_spark = build(lived[0].model_copy(update={"offline_executor": "spark"}), early, RETRIEVAL)
    assert len(by_spark) > 1000
    assert by_spark.fingerprint == build(lived[0], early, RETRIEVAL).fingerprint


@pytest.mark.usefixtures("dask")
def test_two_workers_fit_a_ranker_as_good_as_that_of_one_process(dataset: Dataset) -> None:
    """The same nDCG, on the later slice, as another seed may give or take."""
    slices = split(dataset, CONFIG)
    bias = PositionBias.of(slices.learn.position, slices.learn.frame["seen"].to_numpy(dtype=bool))
    requests = Requests.of(slices.test, bias)

    def judged(seed: int, client: "Client | None") -> float:
        booster = fit_trees(slices.fit, bias, rounds=60, stop=slices.stop, seed=seed, client=client)
        return float(requests.ndcg(np.asarray(booster.predict(slices.test.matrix(), num_threads=1))).mean())

    with workers("local:2") as client:
        alone, together = (np.array([judged(seed, by) for seed in range(3)]) for by in (None, client))
    noise = np.ptp(alone)
    assert noise > 0
    assert abs(alone.mean() - together.mean()) < noise


def test_a_rows_features_are_those_that_the_service_would_have_computed(
    lived: tuple[Settings, World], dataset: Dataset
) -> None:
    world = lived[1]
    for _, row in dataset.frame.sample(6, random_state=1).iterrows():
        user, item = USER_FOLD.decode(None), ITEM_FOLD.decode(None)
        for offset, event in events_before(world, row["event_timestamp"]):
            if event.user_id == row["user_id"]:
                USER_FOLD.fold(user, event, INTERACTIONS, 0, 0, offset)
            if event.item_id == row["item_id"]:
                ITEM_FOLD.fold(item, event, INTERACTIONS, 0, 0, offset)
        t = micros(row["event_timestamp"].to_pydatetime())
        online = user_values(USER_FOLD.encode(user), t).values
        online |= dict(zip(ITEM_FOLD.features, item_values(ITEM_FOLD.encode(item), t), strict=True))
        assert {name: row[name] for name in online} == pytest.approx(online, nan_ok=True)


def test_what_happens_later_changes_nothing_in_an_earlier_set(lived: tuple[Settings, World], tmp_path: Path) -> None:
    """Built as of a day, from a lake that goes on and from one that ends there; also the scores of the sources."""
    midnight = pd.Timestamp(START + timedelta(days=DAYS - 4), tz="UTC").to_pydatetime()
    ended = midnight - timedelta(microseconds=1)  # new items are listed at midnight
    ends_there, world = lived_in(tmp_path, WORLD, DAYS - 4)
    assert world.interactions["event_timestamp"].max() < ended
    goes_on, ends = build(lived[0], ended, RETRIEVAL), build(ends_there, config=RETRIEVAL)
    assert goes_on.fingerprint == ends.fingerprint
    pd.testing.assert_frame_equal(goes_on.interactions, ends.interactions)  # what the sources are fitted on
    pd.testing.assert_frame_equal(goes_on.items, ends.items)


def test_before_anything_was_shown_there_is_nothing_to_learn_from(lived: tuple[Settings, World]) -> None:
    with pytest.raises(NotEnoughDataError, match="no impression is known"):
        build(lived[0], pd.Timestamp(START, tz="UTC").to_pydatetime())


def test_a_saved_set_is_read_back_and_a_changed_one_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    dataset.save(tmp_path)
    loaded = Dataset.load(tmp_path)
    assert (loaded.fingerprint, len(loaded.interactions)) == (dataset.fingerprint, len(dataset.interactions))
    loaded.frame.iloc[:-1].to_parquet(tmp_path / "dataset.parquet", index=False)
    with pytest.raises(ModelError, match="fingerprint"):
        Dataset.load(tmp_path)


def test_a_version_beats_popularity_and_passes_its_gates(registered: Registered, promoted: Verdict) -> None:
    metrics = registered.trained.evaluation.metrics
    assert metrics["ndcg_at_10"]["value"] > metrics["ndcg_at_10_popularity"]["value"] > metrics["ndcg_at_10"]["floor"]
    assert promoted.promoted, promoted.reason
    assert {gate.name for gate in promoted.gates} == {"better", "catalogue", "parity", "latency", "segments"}


def test_a_version_trained_again_on_the_same_data_is_the_same_version(
    lived: tuple[Settings, World], dataset: Dataset, registered: Registered
) -> None:
    assert train(lived[0], dataset, CONFIG).version == registered.version


def test_a_registered_version_scores_as_the_trained_one_also_as_a_pyfunc(
    lived: tuple[Settings, World], dataset: Dataset, registered: Registered
) -> None:
    import mlflow.pyfunc

    folder = Registry(lived[0]).download(registered.ref)
    loaded, matrix = RecommendationModel.load(folder), dataset.matrix()[:500]
    assert np.array_equal(loaded.rank(matrix), registered.trained.model.rank(matrix))
    assert loaded.policy == CONFIG.policy and loaded.bias == registered.trained.model.bias
    pyfunc = mlflow.pyfunc.load_model(registered.ref.source)
    assert np.array_equal(pyfunc.predict(dataset.frame[list(FEATURES)].head(50)), loaded.rank(matrix[:50]))


def test_a_version_with_a_byte_changed_in_any_of_its_files_is_not_loaded(
    lived: tuple[Settings, World], registered: Registered
) -> None:
    """Trees, factors, index and holdout alike: the copy is fetched anew; where the store was changed too, refused."""
    registry, ref = Registry(lived[0]), registered.ref
    folder = registry.download(ref)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {".npz", ".json", ".parquet", ".txt"} <= {path.suffix for path in files}, files
    for path in files:
        original = path.read_bytes()
        at = len(original) // 2
        path.write_bytes(original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :])
        assert not intact(folder, ref.digest), path
        path.write_bytes(original)
    (folder / "more.txt").write_text("not registered")
    assert not intact(folder, ref.digest)
    assert not (registry.download(ref) / "more.txt").exists()
    stored = next((lived[0].mlflow_dir / "artifacts").rglob("*.npz"))
    original = stored.read_bytes()
    stored.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    (folder / "model.json").write_text("{}")
    with pytest.raises(ModelError, match="not those that were registered"):
        registry.download(ref)
    stored.write_bytes(original)
    assert intact(registry.download(ref), ref.digest)


def test_a_ranker_that_has_learnt_nothing_is_refused(
    lived: tuple[Settings, World], registered: Registered, promoted: Verdict
) -> None:
    folder = Registry(lived[0]).download(registered.ref)
    rows, model = holdout(folder), RecommendationModel.load(folder)
    champion = Contestant.on(rows, "1", model)
    blind = Contestant("2", model, np.random.default_rng(0).random(len(rows)))
    verdicts = {gate.name: gate.passed for gate in all_gates(rows, blind, champion, 0, None, Limits())}
    assert not verdicts["better"]


def test_where_users_have_tried_a_version_their_verdict_stands(
    lived: tuple[Settings, World], registered: Registered
) -> None:
    folder = Registry(lived[0]).download(registered.ref)
    rows, model = holdout(folder), RecommendationModel.load(folder)
    ours, champion = Contestant.on(rows, "2", model), Contestant.on(rows, "1", model)
    for verdict, passed in (("launch", True), ("no difference", False), ("stop", False)):
        trial = {"experiment": "version-2", "verdict": verdict, "reason": "…"}
        assert all_gates(rows, ours, champion, 0, trial, Limits())[0].passed is passed


def test_the_batch_lists_are_the_same_each_time_and_reach_the_online_store(
    lived: tuple[Settings, World], promoted: Verdict
) -> None:
    settings, day = lived[0], START + timedelta(days=DAYS - 1)
    path = score_day(settings, day)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    assert hashlib.sha256(score_day(settings, day).read_bytes()).hexdigest() == before
    frame = pd.read_parquet(path)
    assert frame["user_id"].is_unique and frame["item_ids"].map(len).max() == LENGTH
    stored = FeatureStore(settings).states(BATCH_VIEW).read([frame["user_id"].iloc[0]])[0]
    assert stored is not None and frame["item_ids"].iloc[0][0] in stored.decode()
    score_day(settings, day - timedelta(days=1))
    assert FeatureStore(settings).states(BATCH_VIEW).read([frame["user_id"].iloc[0]])[0] == stored, "an older night"
    assert Registry(settings).by_alias("recommendation", CHAMPION) is not None
